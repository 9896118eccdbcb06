// Every view over a control plane that says what it is told to.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
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

test("a service shows who leaves which endpoint out, and what each route's backends cost", async () => {
  const it = await stage({});
  await it.visit("/service/svc-001.shop");
  const ejected = it.page.getByRole("region", { name: "Ejected endpoints" });
  const row = ejected.getByRole("row").filter({ hasText: "svc-000-v1-abcde.shop" });
  assert.match(await row.textContent(), /pod-110\.0\.0\.1:8080v1svc-000-v1\.shop svc-000-v1-abcde\.shop5xx in a row1[2-9]s agoin 1\ds/);
  assert.equal(await ejected.locator("tbody tr").count(), 2);
  const endpoint = it.page.getByRole("region", { name: "Endpoints", exact: true }).getByRole("row").filter({ hasText: "pod-1" });
  await endpoint.getByText("ejected", { exact: true }).waitFor();
  await it.page.locator(".tile").getByText("1 ejected by callers").waitFor();
  const cells = async (text) => await it.page.getByRole("region", { name: "Measured by route and backend" }).getByRole("row").filter({ hasText: text }).locator("td").allTextContents();
  assert.deepEqual((await cells("v2")).slice(-3), ["7", "2", "0"]);
  assert.deepEqual((await cells("split–")).slice(-3), ["0", "0", "4"]);
  await it.visit("/service/svc-004.payments");
  assert.equal(await it.page.locator(".tile").getByText("ejected").count(), 0);
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
