// Every view over a control plane that says what it is told to.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { accessible, launch, open, settled } from "./browser.mjs";
import { SECRET, serve, world } from "./fake.mjs";

const VIEWS = {
  overview: "/", graph: "/graph", "graph-node": "/graph?node=svc-001.shop", "graph-replay": "/graph?replay=3600", services: "/services",
  service: "/service/svc-001.shop", canaries: "/canaries", canary: "/canaries/svc-001.shop", "canary-back": "/canaries/svc-002.shop", tap: "/tap",
  traces: "/traces", trace: `/traces/${"0".repeat(31)}1`, config: "/config", object: "/config/VirtualService/shop/svc-001", new: "/config/new",
  history: "/history?revision=12", authz: "/authz", proxies: "/proxies", check: "/check", nothing: "/nothing",
};

let browser;
before(async () => { browser = await launch(); });
after(async () => { await browser.close(); });

/// A window over a fake of its own.
async function stage(options, how) {
  const mesh = world(options);
  const server = await serve(mesh);
  const window = await open(browser, server.link, how);
  return { mesh, server, ...window, end: async () => { await window.close(); server.close(); } };
}

for (const theme of ["light", "dark"]) {
  test(`every view is without errors and can be read by everybody, ${theme}`, async () => {
    const it = await stage({}, { theme });
    for (const [name, path] of Object.entries(VIEWS)) {
      await it.visit(path);
      if (name.startsWith("graph")) await it.page.locator(".graph .node").first().waitFor();
      await it.shot(`fake-${name}`);
      await accessible(it.page, `${name}, ${theme}`);
    }
    it.fine();
    await it.end();
  });
}

test("every view fits a telephone", async () => {
  const it = await stage({}, { width: 390, height: 844 });
  for (const [name, path] of Object.entries(VIEWS)) {
    await it.visit(path);
    const beyond = await it.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(beyond <= 0, `${name} is ${beyond} pixels too wide`);
    await it.shot(`fake-${name}`);
  }
  it.fine();
  await it.end();
});

test("what the control plane lacks is not shown, and nothing else is lost", async () => {
  const it = await stage({ absent: ["tap", "traces", "rollouts", "series"] });
  const links = await it.page.locator("nav a").allTextContents();
  assert.ok(!links.includes("Tap") && !links.includes("Traces"), links.join());
  await it.visit("/tap");
  await it.page.getByText("There is no such page").waitFor();
  await it.visit("/canaries");
  await it.page.getByRole("button", { name: "Shift…" }).first().waitFor();
  await it.visit("/service/svc-001.shop");
  // What the page has seen itself stands in for what is not kept.
  await it.page.locator(".chart canvas").first().waitFor({ timeout: 15_000 });
  it.fine();
  await it.end();
});

test("a viewer, and a page that only looks, see no way to change anything", async () => {
  for (const options of [{ role: "viewer" }, { about: { readOnly: true } }]) {
    const it = await stage(options);
    for (const path of ["/canaries", "/canaries/svc-001.shop", "/config/VirtualService/shop/svc-001", "/history", "/config"]) {
      await it.visit(path);
      const buttons = await it.page.locator("main button, main a.button").allTextContents();
      const changes = buttons.filter((text) => /Shift|Start a|Pause|Promote|Abort|Resume|Undo|Edit|Delete|Go back|New…/.test(text));
      assert.deepEqual(changes, [], path);
    }
    await it.end();
  }
});

describe("rollouts", () => {
  test("are paused, resumed, promoted, aborted and undone after a question", async () => {
    const it = await stage({});
    await it.visit("/canaries/svc-001.shop");
    const act = async (name, path) => {
      await it.page.locator(".head").getByRole("button", { name, exact: true }).click();
      const dialog = it.page.getByRole("dialog");
      await dialog.getByText("meshctl canary").waitFor();
      assert.ok(!it.mesh.posted.some((one) => one.path === path), `${path} before the answer`);
      await dialog.getByRole("button", { name, exact: true }).click();
      await dialog.waitFor({ state: "detached" });
      assert.ok(it.mesh.posted.some((one) => one.path === path), path);
    };
    await act("Pause", "/rollouts/shop/svc-001/pause");
    await act("Resume", "/rollouts/shop/svc-001/resume");
    await act("Promote", "/rollouts/shop/svc-001/promote");
    await act("Undo", "/rollouts/shop/svc-001/undo");
    await it.visit("/canaries/svc-004.payments");
    await act("Abort", "/rollouts/payments/svc-004/abort");
    it.fine();
    await it.end();
  });

  test("are started with what was chosen, and weights are shifted", async () => {
    const it = await stage({});
    await it.visit("/canaries");
    await it.page.getByRole("button", { name: "Start a rollout…" }).first().click();
    const dialog = it.page.getByRole("dialog");
    await dialog.getByLabel("Steps, in percent").fill("10 5");
    await dialog.getByRole("button", { name: "Start" }).click();
    await dialog.getByText("steps are shares that grow").waitFor();
    await dialog.getByLabel("Steps, in percent").fill("10, 50, 100");
    await dialog.getByLabel("Canary").selectOption("v2");
    await dialog.getByRole("button", { name: "Start" }).click();
    await dialog.waitFor({ state: "detached" });
    const started = it.mesh.posted.find((one) => one.path.startsWith("/rollouts/"));
    assert.deepEqual(started.body.spec.steps, [{ weight: 10 }, { weight: 50 }, { weight: 100 }]);
    assert.equal(started.body.spec.canary, "v2");
    await it.page.getByRole("button", { name: "Shift…" }).first().click();
    await dialog.getByLabel("v1").fill("60");
    await dialog.getByLabel("v2").fill("40");
    await dialog.getByText("meshctl canary set svc-001 -n shop v1=60 v2=40").waitFor();
    await dialog.getByRole("button", { name: "Shift now" }).click();
    await dialog.waitFor({ state: "detached" });
    assert.deepEqual(it.mesh.posted.at(-1), { path: "/canaries/shop/svc-001", body: { weights: [["v1", 60], ["v2", 40]] } });
    it.fine();
    await it.end();
  });
});

test("tapped calls come as they are made, are kept to a bound, and stop coming when nobody looks", async () => {
  const it = await stage({});
  await it.visit("/tap");
  await it.page.getByLabel("Service").fill("svc-001.shop");
  await it.page.getByRole("button", { name: "Start" }).click();
  await it.page.locator(".live tbody tr").nth(20).waitFor();
  assert.equal(it.server.taps.open, 1);
  assert.match(it.page.url(), /service=svc-001\.shop/);
  await it.page.getByRole("button", { name: "Pause" }).click();
  await it.page.waitForTimeout(300);
  const first = await it.page.locator(".live tbody tr").first().textContent();
  await it.page.waitForTimeout(600);
  assert.equal(await it.page.locator(".live tbody tr").first().textContent(), first, "paused rows stay");
  await it.page.getByRole("button", { name: "Continue" }).click();
  await it.page.locator(".live tbody tr").first().getByRole("button", { name: "more" }).click();
  await it.page.getByText("meshctl tap svc-001.shop").waitFor();
  await it.page.getByText(/, the last 500 shown/).waitFor({ timeout: 30_000 });
  assert.ok(await it.page.locator(".live tbody > tr").count() <= 501);
  await it.page.locator("nav").getByText("Overview").click();
  await it.page.waitForTimeout(300);
  assert.equal(it.server.taps.open, 0, "the stream ends with its view");
  it.fine();
  await it.end();
});

test("a change is compared before it is applied, and an error stands at its line", async () => {
  const it = await stage({});
  await it.visit("/config/VirtualService/shop/svc-001");
  const found = it.page.locator(".yaml .l.found");
  assert.match(await found.textContent(), /subset: v9/);
  await it.page.getByRole("button", { name: "Edit" }).click();
  const text = it.page.getByLabel("YAML");
  assert.ok(await it.page.getByRole("button", { name: "Review changes" }).isDisabled());
  await text.fill((await text.inputValue()).replace('"3s"', "5s"));
  assert.equal(await it.page.getByRole("button", { name: "Apply" }).count(), 0, "nothing is applied unseen");
  await it.page.getByRole("button", { name: "Review changes" }).click();
  await it.page.getByText("spec.http[1].timeout").waitFor();
  await text.fill(`${await text.inputValue()}# more\n`);
  assert.equal(await it.page.getByRole("button", { name: "Apply" }).count(), 0, "what was compared is another text");
  await it.page.getByRole("button", { name: "Review changes" }).click();
  await it.page.getByRole("button", { name: "Apply" }).click();
  await it.page.getByRole("button", { name: "Edit" }).waitFor();
  const applied = it.mesh.posted.find((one) => one.path === "/resources");
  assert.match(applied.body.sources[0].text, /timeout: 5s/);
  it.fine();
  await it.end();
});

test("one goes back to an earlier revision after having seen what that changes", async () => {
  const it = await stage({});
  await it.visit("/history");
  await it.page.getByRole("button", { name: "Go back…" }).first().click();
  const dialog = it.page.getByRole("dialog");
  await dialog.getByText("spec.http[1].timeout").waitFor();
  await dialog.getByRole("button", { name: "Go back" }).click();
  await dialog.waitFor({ state: "detached" });
  assert.deepEqual(it.mesh.posted.at(-1), { path: "/rollback", body: { revision: 12, who: "" } });
  await it.end();
});

test("everything can be reached and done with the keyboard", async () => {
  const it = await stage({});
  const focused = () => it.page.evaluate(() => { const of = document.activeElement; return of?.getAttribute("aria-label") ?? of?.textContent ?? ""; });
  await it.page.keyboard.press("Tab");
  assert.equal(await focused(), "Skip to the content");
  await it.page.keyboard.press("Tab");
  await it.page.keyboard.press("Tab");
  await it.page.keyboard.press("Tab");
  assert.equal(await focused(), "Graph");
  await it.page.keyboard.press("Enter");
  await it.page.locator(".graph .node").first().waitFor();
  assert.equal(await focused(), "Graph", "the new view's title has the focus");
  // From the title through the tools into the drawing.
  let hops = 0;
  while (!(await it.page.evaluate(() => document.activeElement?.matches(".graph .node")))) {
    await it.page.keyboard.press("Tab");
    assert.ok(++hops < 40, "a node can be reached");
    const seen = await it.page.evaluate(() => {
      const of = document.activeElement;
      return of === document.body || getComputedStyle(of).outlineStyle !== "none" || of.matches(".node, h1, main");
    });
    assert.ok(seen, `who has the focus is seen: ${await focused()}`);
  }
  await it.page.keyboard.press("Enter");
  await it.page.locator(".sidepanel h2").waitFor();
  await it.page.keyboard.press("Escape");
  await it.page.locator(".sidepanel").waitFor({ state: "detached" });
  await it.visit("/canaries/svc-001.shop");
  await it.page.getByRole("button", { name: "Pause" }).focus();
  await it.page.keyboard.press("Enter");
  await it.page.getByRole("dialog").waitFor();
  await it.page.keyboard.press("Escape");
  await it.page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal(it.mesh.posted.length, 0, "Escape asks for nothing");
  it.fine();
  await it.end();
});

test("every view says the command that shows the same", async () => {
  const it = await stage({ about: { flags: "--context shop" } });
  for (const [name, path] of Object.entries(VIEWS)) {
    if (name === "nothing") continue;
    await it.visit(path);
    assert.match(await it.page.locator(".command code").textContent(), /^meshctl --context shop [a-z]/, name);
  }
  await it.end();
});

test("links lead to what they show, in a window that was opened before", async () => {
  const it = await stage({});
  await it.visit("/service/svc-003.payments?window=900");
  assert.equal(await it.page.locator("h1").textContent(), "svc-003.payments");
  assert.equal(await it.page.getByRole("button", { name: "15 min" }).getAttribute("aria-pressed"), "true");
  await it.page.getByRole("link", { name: "Services" }).first().click();
  await it.page.goBack();
  assert.equal(await it.page.locator("h1").textContent(), "svc-003.payments");
  assert.ok(!it.page.url().includes(SECRET), "the secret is not in the address");
  it.fine();
  await it.end();
});

test("without its link a window shows nothing, and the link may be given to it", async () => {
  const mesh = world({});
  const server = await serve(mesh);
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(server.origin);
  await page.getByText("This window was not opened by its link").waitFor();
  await page.getByLabel("Link").fill(server.link);
  await page.getByRole("button", { name: "Open" }).click();
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await context.close();
  server.close();
});

test("a control plane that is gone is said, and what was known stays", async () => {
  const it = await stage({});
  await settled(it.page);
  await it.page.getByText("svc-001.shop").first().waitFor();
  it.server.close();
  await it.page.getByText("meshctl dashboard does not answer.").waitFor({ timeout: 15_000 });
  assert.ok(await it.page.getByText("svc-001.shop").first().isVisible());
  await it.close();
});

test("nothing jumps while figures come", async () => {
  const it = await stage({});
  await it.page.evaluate(() => {
    globalThis.jumps = 0;
    new PerformanceObserver((list) => { for (const entry of list.getEntries()) if (!entry.hadRecentInput) globalThis.jumps += entry.value; }).observe({ type: "layout-shift", buffered: true });
  });
  await it.page.waitForTimeout(7000);
  const jumps = await it.page.evaluate(() => globalThis.jumps);
  console.log(`layout shift of the overview: ${jumps.toFixed(3)}`);
  assert.ok(jumps < 0.1, `${jumps}`);
  await it.end();
});
