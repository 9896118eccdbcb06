// Every action of every view, over a control plane that says what it is told to. Whatever can be pressed, chosen or typed
// into is noted when it is seen and when it is used; what is seen and never used fails the last test.
import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { accessible, launch, open, settled } from "./browser.mjs";
import { serve, world } from "./fake.mjs";

let browser;
before(async () => { browser = await launch(); });
after(async () => { await browser.close(); });
/// What a test that fails has left open would slow down those after it.
const opened = new Set();
afterEach(async () => { for (const close of opened) await close(); });

const seen = new Map(), used = new Set();
/// Names that have data in them, as what they are.
const CALLED = [
  [/^(around|to) \S+ ✕$|^[A-Z]\w+ \S+ ✕$/, "take the filter out"], [/^\d+$/, "revision"], [/, the call /, "a call of the side panel"],
  [/^svc-\d+\.\w+$|^(shop|payments|search|platform|outside)$/, "a neighbour in the side panel"], [/^(failed )?svc-\d+\.\w+ .*\((client|server)\)/, "a span"],
  [/^(allowed|denied|asked)( A)?$/, "a cell of the matrix"], [/^v\d$/, "a weight"], [/^Copied$/, "Copy the command"],
];
function note(kind, view, text) {
  const name = CALLED.find(([shape]) => shape.test(text))?.[1] ?? text;
  // Every question can be left in the same way.
  const key = name === "Cancel" && view.startsWith("dialog") ? "dialog: Cancel" : `${view}: ${name}`;
  if (kind === "used") used.add(key);
  else if (!seen.has(key)) seen.set(key, text);
}

/// Runs in the page: tells of controls that are there, and of those that are used.
function watch() {
  const CONTROLS = "button, input, select, textarea, a.button, [role=button]";
  const text = (of) => (of.getAttribute("aria-label") ?? of.closest("label")?.querySelector("span")?.textContent ?? of.closest("label")?.textContent ?? (of.matches("select, input, textarea") ? "" : of.textContent)).replace(/\s+/g, " ").trim();
  const view = (of) => of.closest("dialog") ? `dialog ${of.closest("dialog").getAttribute("aria-label").split(" ")[0]}` : of.closest(".side") ? "frame" : of.closest(".command") ? "command" : `/${location.pathname.split("/")[1]}${location.pathname.split("/").length > 2 ? "/…" : ""}`;
  const say = (kind, of) => { if (!of.disabled && !of.closest(".node")) globalThis.note(kind, view(of), text(of)); };
  for (const name of ["click", "input", "change"]) {
    addEventListener(name, (event) => {
      const of = event.target instanceof Element && event.target.closest(CONTROLS);
      if (of && (name !== "click" || of.matches("button, a, [role=button]"))) say("used", of);
    }, { capture: true });
  }
  const told = new WeakMap();
  setInterval(() => {
    for (const of of document.querySelectorAll(CONTROLS)) {
      const now = `${of.textContent}${of.ariaLabel}${of.disabled}`;
      if (told.get(of) === now) continue;
      told.set(of, now);
      say("seen", of);
    }
  }, 100);
}

/// A window over a fake of its own.
async function stage(options, how) {
  const mesh = world(options);
  const server = await serve(mesh);
  const window = await open(browser, server.link, { ...how, before: async (context) => {
    await context.exposeFunction("note", note);
    await context.addInitScript(watch);
  } });
  const said = (method, path) => mesh.posted.filter((one) => one.method === method && one.path === path);
  const close = async () => { opened.delete(close); await window.close(); server.close(); };
  opened.add(close);
  const query = () => new URL(window.page.url()).searchParams;
  return { mesh, server, said, query, ...window, end: async () => { window.fine(); await close(); } };
}
const button = (of, name) => of.getByRole("button", { name, exact: true });

test("colours are chosen, and stay chosen", async () => {
  const it = await stage({});
  const theme = () => it.page.evaluate(() => document.documentElement.dataset.theme);
  assert.equal(await theme(), "light");
  for (const [name, expected] of [["Dark", "dark"], ["Light", "light"], ["Auto", "light"], ["Dark", "dark"]]) {
    await button(it.page, name).click();
    assert.equal(await theme(), expected);
    assert.equal(await button(it.page, name).getAttribute("aria-pressed"), "true");
  }
  await it.visit("/services");
  assert.equal(await theme(), "dark");
  await button(it.page, "Auto").click();
  await it.page.emulateMedia({ colorScheme: "dark" });
  await it.page.waitForFunction(() => document.documentElement.dataset.theme === "dark");
  await it.end();
});

test("the frame leads to every view, and past itself to the content", async () => {
  const it = await stage({});
  const links = it.page.locator("nav a");
  const names = (await links.allTextContents()).map((text) => text.replace(/\d+$/, ""));
  assert.deepEqual(names, ["Overview", "Graph", "Services", "Canaries", "Tap", "Traces", "Configuration", "History", "Authorization", "Proxies", "Check"]);
  // Where one is already leads nowhere.
  for (const [at, name] of [...names.entries()].slice(1).concat([[0, "Overview"]])) {
    await links.nth(at).click();
    await it.page.getByRole("heading", { name, level: 1 }).waitFor();
    assert.equal(await links.nth(at).getAttribute("aria-current"), "page");
    await it.page.waitForFunction(() => document.activeElement.matches("h1"));
  }
  await links.nth(2).click();
  await it.page.locator(".brand a").click();
  await it.page.getByRole("heading", { name: "Overview" }).waitFor();
  await it.page.keyboard.press("Shift+Tab");
  const skip = it.page.locator(".skip");
  await skip.focus();
  await it.page.keyboard.press("Enter");
  assert.equal(await it.page.evaluate(() => document.activeElement.id), "main");
  await it.end();
});

test("a view's command is copied as it is shown", async () => {
  const it = await stage({ about: { flags: "--context shop" } });
  await it.page.context().grantPermissions(["clipboard-read", "clipboard-write"], { origin: it.origin });
  await it.visit("/service/svc-001.shop");
  await button(it.page, "Copy the command").click();
  await button(it.page, "Copied").waitFor();
  const copied = await it.page.evaluate(() => navigator.clipboard.readText());
  assert.equal(copied, await it.page.locator(".command code").textContent());
  assert.match(copied, /^meshctl --context shop stats svc-001\.shop/);
  await button(it.page, "Copy the command").waitFor();
  await it.end();
});

test("the overview has a window of time, and leads to what it names", async () => {
  const it = await stage({});
  await settled(it.page);
  for (const [name, window, command] of [["5 min", "300", "stats --window 5m"], ["15 min", "900", "stats --window 15m"], ["1 h", "3600", "stats --window 1h"], ["1 min", null, "stats"]]) {
    await button(it.page, name).click();
    assert.equal(it.query().get("window"), window);
    assert.equal(await it.page.locator(".command code").textContent(), `meshctl ${command}`);
    await it.page.waitForFunction((window) => performance.getEntriesByType("resource").some((one) => one.name.includes(`/stats?window=${window ?? 60}&`)), window);
  }
  for (const [link, title] of [["svc-005.payments", "svc-005.payments"], ["not in sync", "Proxies"], ["certificates", "Proxies"], ["all services", "Services"], ["configuration", "Configuration"], ["VirtualService shop/svc-001", "VirtualService shop/svc-001"], ["12", "History"]]) {
    await it.visit("/");
    await it.page.locator("main a").filter({ hasText: link }).first().click();
    await it.page.getByRole("heading", { name: title, level: 1 }).waitFor();
  }
  await it.visit("/");
  await it.page.getByRole("link", { name: /calls? in plaintext$/ }).click();
  await it.page.getByRole("heading", { name: "Graph" }).waitFor();
  assert.equal(it.query().get("insecure"), "1");
  await it.end();
});

describe("the graph", () => {
  const drawn = async (it) => {
    await it.page.locator(".graph .node").first().waitFor();
    await it.page.waitForFunction(() => document.querySelector(".graph > svg > g")?.getAttribute("transform"));
  };
  const place = (it) => it.page.locator(".graph > svg > g").getAttribute("transform");
  const moved = async (it, act) => {
    const before = await place(it);
    await act();
    await it.page.waitForFunction((before) => document.querySelector(".graph > svg > g").getAttribute("transform") !== before, before);
    return await place(it);
  };

  test("is of a window of time, of all calls or of those in plaintext, of all or one namespace", async () => {
    const it = await stage({});
    await it.visit("/graph");
    await drawn(it);
    const edges = it.page.locator(".graph .edge");
    const all = await edges.count();
    await button(it.page, "Plaintext").click();
    await it.page.waitForFunction((all) => { const n = document.querySelectorAll(".graph .edge").length; return n > 0 && n < all; }, all);
    assert.equal(it.query().get("insecure"), "1");
    assert.match(await it.page.locator(".command code").textContent(), /edges --insecure/);
    await button(it.page, "All calls").click();
    await it.page.waitForFunction((all) => document.querySelectorAll(".graph .edge").length === all, all);
    for (const [name, window] of [["10 s", "10"], ["15 min", "900"], ["1 min", "60"]]) {
      await button(it.page, name).click();
      assert.equal(it.query().get("window"), window);
    }
    const what = it.page.getByLabel("What is drawn");
    await what.selectOption("*");
    await it.page.locator('.graph .node[data-node="shop"]').waitFor();
    assert.equal(await it.page.locator(".graph .node").count() <= 5, true);
    await what.selectOption("shop");
    await it.page.locator('.graph .node[data-node="svc-001.shop"]').waitFor();
    assert.equal(await it.page.locator('.graph .node[data-node$=".payments"]').count(), 0);
    assert.equal(it.query().get("namespace"), "shop");
    await what.selectOption("");
    await it.page.locator('.graph .node[data-node="svc-004.payments"]').waitFor();
    await it.end();
  });

  test("is moved, zoomed and arranged by pointer and by keyboard", async () => {
    const it = await stage({});
    await it.visit("/graph");
    await drawn(it);
    const fitted = await place(it);
    const scale = (transform) => Number(/scale\(([\d.]+)\)/.exec(transform)[1]);
    const closer = await moved(it, () => button(it.page, "Closer").click());
    assert.ok(scale(closer) > scale(fitted));
    const further = await moved(it, () => button(it.page, "Further").click());
    assert.ok(Math.abs(scale(further) - scale(fitted)) < 1e-6);
    await moved(it, () => button(it.page, "Closer").click());
    assert.equal(await moved(it, () => button(it.page, "Fit").click()), fitted);
    const node = it.page.locator('.graph .node[data-node="svc-001.shop"]');
    await node.focus();
    for (const key of ["ArrowLeft", "ArrowUp", "+", "-"]) await moved(it, () => it.page.keyboard.press(key));
    assert.equal(await moved(it, () => it.page.keyboard.press("0")), fitted);
    const at = () => node.getAttribute("transform");
    const stood = await at();
    await it.page.keyboard.press("Alt+ArrowDown");
    assert.notEqual(await at(), stood, "a node is moved by the keyboard");
    const box = await node.boundingBox();
    const arranged = await at();
    await it.page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    await it.page.mouse.down();
    await it.page.mouse.move(box.x + box.width / 2 + 60, box.y + box.height / 2 + 30, { steps: 4 });
    await it.page.mouse.up();
    assert.notEqual(await at(), arranged, "and by the pointer");
    assert.equal(it.query().get("node"), null, "which does not pick it");
    await it.end();
  });

  test("says of a node and of a call what there is to know, and leads on from there", async () => {
    const it = await stage({});
    await it.visit("/graph");
    await drawn(it);
    await it.page.locator('.graph .node[data-node="svc-001.shop"]').click();
    const panel = it.page.locator(".sidepanel");
    await panel.getByRole("heading", { name: "svc-001.shop" }).waitFor();
    assert.equal(it.query().get("node"), "svc-001.shop");
    await it.shot("fake-graph-panel");
    await panel.getByRole("button", { name: /, the call svc-000/ }).click();
    await panel.getByRole("heading", { name: "svc-000.shop → svc-001.shop" }).waitFor();
    await panel.getByText("mTLS").first().waitFor();
    assert.equal(it.query().get("edge"), "svc-000.shop>svc-001.shop");
    await accessible(it.page, "the panel of a call");
    await it.shot("fake-graph-call");
    await it.page.locator(".sidepanel a").filter({ hasText: "svc-001.shop" }).focus();
    await it.page.keyboard.press("Escape");
    await panel.waitFor({ state: "detached" });
    // With the pointer on the line itself.
    const hit = await it.page.locator('.graph .edge[data-call="svc-000.shop>svc-001.shop"] .hit').evaluate((path) => {
      const at = path.getPointAtLength(path.getTotalLength() / 3).matrixTransform(path.getScreenCTM());
      return [at.x, at.y];
    });
    await it.page.mouse.click(...hit);
    await panel.getByRole("heading", { name: "svc-000.shop → svc-001.shop" }).waitFor();
    await button(panel, "Close").click();
    await panel.waitFor({ state: "detached" });
    await it.visit("/graph?node=svc-001.shop");
    await panel.getByRole("button", { name: "svc-000.shop", exact: true }).click();
    await panel.getByRole("heading", { name: "svc-000.shop" }).waitFor();
    await it.visit("/graph?node=svc-001.shop");
    await panel.getByRole("link", { name: "Only its neighbours" }).click();
    await button(it.page, "around svc-001.shop ✕").click();
    assert.equal(it.query().get("focus"), null);
    for (const [name, path] of [["Service", "/service/svc-001.shop"], ["Tap", "/tap"]]) {
      await it.visit("/graph?node=svc-001.shop");
      await panel.getByRole("link", { name, exact: true }).click();
      assert.equal(new URL(it.page.url()).pathname, path);
    }
    await it.visit("/graph?group=namespace&node=shop");
    await button(panel, "Show its services").click();
    await it.page.locator('.graph .node[data-node="svc-001.shop"]').waitFor();
    await it.end();
  });

  test("is replayed over every span that is kept", async () => {
    const it = await stage({});
    await it.visit("/graph");
    const time = it.page.getByLabel("Time");
    for (const [value, step] of [["900", 10], ["3600", 30], ["21600", 300], ["86400", 900], ["604800", 3600]]) {
      await time.selectOption(value);
      await it.page.waitForFunction(([window, step]) => performance.getEntriesByType("resource").some((one) => one.name.includes(`/series?window=${window}&step=${step}&`)), [value, step]);
      await it.page.getByLabel("Moment").waitFor();
    }
    await time.selectOption("900");
    const slider = it.page.getByLabel("Moment");
    const text = '.graph .edge[data-call="svc-000.shop>svc-001.shop"] text';
    await it.page.locator(text).waitFor();
    await slider.fill("5");
    const then = await it.page.locator(text).textContent();
    const said = await slider.getAttribute("aria-valuetext");
    await slider.press("ArrowRight");
    assert.equal(await slider.inputValue(), "6");
    assert.notEqual(await slider.getAttribute("aria-valuetext"), said);
    await it.page.waitForFunction(([text, then]) => document.querySelector(text).textContent !== then, [text, then]);
    await button(it.page, "Play").click();
    await it.page.waitForFunction(() => Number(document.querySelector(".replay input").value) > 7);
    await button(it.page, "Pause").click();
    const held = await slider.inputValue();
    await it.page.waitForTimeout(800);
    assert.equal(await slider.inputValue(), held);
    await time.selectOption("");
    await it.page.locator(".replay").waitFor({ state: "detached" });
    await it.end();
  });
});

test("services are filtered, and have a window of time", async () => {
  const it = await stage({});
  await it.visit("/services");
  const rows = it.page.getByRole("region", { name: "Services" }).locator("tbody tr");
  assert.equal(await rows.count(), 12);
  await it.page.getByLabel("Filter by name").fill("payments");
  await it.page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 3);
  assert.equal(it.query().get("filter"), "payments");
  for (const [name, window] of [["5 min", "300"], ["15 min", "900"], ["1 h", "3600"], ["1 min", null]]) {
    await button(it.page, name).click();
    assert.equal(it.query().get("window"), window);
  }
  await it.page.getByRole("link", { name: "svc-004.payments" }).click();
  await it.page.getByRole("heading", { name: "svc-004.payments", level: 1 }).waitFor();
  await it.end();
});

test("a service has a window of time, and leads to what concerns it", async () => {
  const it = await stage({});
  await it.visit("/service/svc-001.shop");
  for (const [name, window] of [["1 min", "60"], ["15 min", "900"], ["1 h", "3600"], ["5 min", "300"]]) {
    await button(it.page, name).click();
    assert.equal(it.query().get("window"), window);
    await it.page.waitForFunction((window) => performance.getEntriesByType("resource").some((one) => one.name.includes(`/stats?window=${window}&`)), window);
  }
  for (const [link, path] of [["In the graph", "/graph"], ["who may call", "/authz"], ["VirtualService svc-001", "/config/VirtualService/shop/svc-001"], ["Services", "/services"]]) {
    await it.visit("/service/svc-001.shop");
    await it.page.locator("main").getByRole("link", { name: link }).first().click();
    assert.equal(new URL(it.page.url()).pathname, path);
  }
  await it.visit("/authz?to=svc-001.shop");
  await it.page.waitForFunction(() => document.querySelectorAll(".matrix thead th").length === 2);
  await button(it.page, "to svc-001.shop ✕").click();
  await it.page.waitForFunction(() => document.querySelectorAll(".matrix thead th").length > 2);
  await it.end();
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
    await dialog.getByLabel("Stable").selectOption("v2");
    await button(dialog, "Start").click();
    await dialog.getByText("the canary is another version than the stable one").waitFor();
    await dialog.getByLabel("Stable").selectOption("v1");
    await dialog.getByLabel("Canary").selectOption("v2");
    await dialog.getByLabel("Interval, in seconds").fill("45");
    await dialog.getByLabel("Requests that a look needs").fill("250");
    await dialog.getByLabel("Success of at least, in percent").fill("98.5");
    await dialog.getByRole("button", { name: "Start" }).click();
    await dialog.waitFor({ state: "detached" });
    const started = it.mesh.posted.find((one) => one.path.startsWith("/rollouts/"));
    assert.deepEqual(started.body.spec.steps, [{ weight: 10 }, { weight: 50 }, { weight: 100 }]);
    const { stable, canary, intervalMs, minRequests, metrics } = started.body.spec;
    assert.deepEqual({ stable, canary, intervalMs, minRequests, least: metrics[0] }, { stable: "v1", canary: "v2", intervalMs: 45_000, minRequests: 250, least: { metric: "success-rate", bound: 98.5, compare: true } });
    await it.page.getByRole("button", { name: "Shift…" }).first().click();
    await dialog.getByLabel("v1").fill("60");
    await dialog.getByLabel("v2").fill("40");
    await dialog.getByText("meshctl canary set svc-001 -n shop v1=60 v2=40").waitFor();
    await dialog.getByRole("button", { name: "Shift now" }).click();
    await dialog.waitFor({ state: "detached" });
    assert.deepEqual(it.mesh.posted.at(-1), { method: "POST", path: "/canaries/shop/svc-001", body: { weights: [["v1", 60], ["v2", 40]] } });
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
  assert.deepEqual(it.mesh.posted.at(-1), { method: "POST", path: "/rollback", body: { revision: 12, who: "" } });
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

test("a step of copies says what they are, how many differ and where", async () => {
  const it = await stage({});
  const one = it.mesh.rollouts.get("svc-001.shop");
  one.strategy = "shadow";
  const measure = { metric: "shadow-diff", value: 4.2, bound: 1, unit: "%", verdict: "fail", requests: 300, different: 12, places: [{ at: "body $.price", count: 12 }] };
  one.steps[0] = { ...one.steps[0], weight: 0, mirror: true, mirrorPercent: 20, measures: [measure] };
  await it.visit("/canaries/svc-001.shop");
  await it.page.getByRole("list", { name: "Steps" }).getByText("copies of 20%").waitFor();
  const row = it.page.getByRole("row").filter({ hasText: "shadow-diff" });
  assert.match(await row.textContent(), /copies of 20%shadow-diff4\.2%.*body \$\.price \(12\)/);
  await it.end();
});

test("what a rollout is judged by has a chart, with its bound", async () => {
  const it = await stage({});
  await it.visit("/canaries/svc-001.shop");
  for (const name of ["Success by version", "p99 by version", "retries by version", "Requests a second by version"]) {
    const chart = it.page.getByRole("img", { name: new RegExp(`^${name}, last: v1 .*, v2 `) });
    await chart.waitFor();
    const bound = chart.locator(".u-legend .u-label").filter({ hasText: /^bound$/ });
    assert.equal(await bound.count(), name.startsWith("Requests") ? 0 : 1, name);
  }
  await it.end();
});

test("what goes wrong with an action is said, and can be tried again or left", async () => {
  const it = await stage({});
  it.mesh.broken.add("POST /rollouts/shop/svc-001/pause");
  await it.visit("/canaries/svc-001.shop");
  await button(it.page.locator(".head"), "Pause").click();
  const dialog = it.page.getByRole("dialog");
  await button(dialog, "Pause").click();
  await dialog.getByText("the disk is full").waitFor();
  await dialog.getByText("make room").waitFor();
  it.wrong.splice(0);
  it.mesh.broken.clear();
  await button(dialog, "Pause").click();
  await dialog.waitFor({ state: "detached" });
  await button(it.page.locator(".head"), "Abort").click();
  await button(dialog, "Cancel").click();
  await dialog.waitFor({ state: "detached" });
  assert.equal(it.said("POST", "/rollouts/shop/svc-001/abort").length, 0);
  it.mesh.broken.add("GET /check");
  await it.visit("/check");
  await it.page.getByText("the disk is full").waitFor();
  it.wrong.splice(0);
  it.mesh.broken.clear();
  await button(it.page, "Try again").click();
  await it.page.getByText("the store takes writes").waitFor();
  await it.end();
});

test("the installation is checked again", async () => {
  const it = await stage({});
  await it.visit("/check");
  await it.page.getByText("1 of 2 checks should be looked at").waitFor();
  it.mesh.well = true;
  await button(it.page, "Check again").click();
  await it.page.getByText("all 2 checks passed").waitFor();
  await it.end();
});

test("each field of a tap is asked for, and it ends when it is told to", async () => {
  const it = await stage({});
  await it.visit("/tap?service=svc-001.shop");
  assert.equal(await it.page.getByLabel("Service").inputValue(), "svc-001.shop", "a link fills the form in");
  const fields = { Service: "svc-002.shop", From: "web-v1.shop", To: "svc-002-v1.shop", Method: "GET", "Path begins with": "/items", Status: "5xx", Header: "x-user: anna", "Slower than, ms": "20", "At most, a second": "7" };
  for (const [name, value] of Object.entries(fields)) await it.page.getByLabel(name, { exact: true }).fill(value);
  await button(it.page, "Start").click();
  await it.page.locator(".live tbody tr").first().waitFor();
  assert.deepEqual(Object.fromEntries(it.server.taps.last), { service: "svc-002.shop", from: "web-v1.shop", to: "svc-002-v1.shop", method: "GET", path: "/items", status: "5xx", header: "x-user:anna", minLatencyMs: "20", rate: "7" });
  assert.equal(await it.page.locator(".command code").textContent(), "meshctl tap svc-002.shop --from web-v1.shop --to svc-002-v1.shop --method GET --path /items --status 5xx --header 'x-user: anna' --min-latency 20ms");
  await button(it.page, "Stop").click();
  await button(it.page, "Start").waitFor();
  const stopped = Date.now();
  while (it.server.taps.open > 0) {
    assert.ok(Date.now() - stopped < 5000, "the stream ends");
    await it.page.waitForTimeout(20);
  }
  const count = await it.page.locator(".panel-head .aside").last().textContent();
  await it.page.waitForTimeout(400);
  assert.equal(await it.page.locator(".panel-head .aside").last().textContent(), count);
  await button(it.page.locator(".live tbody tr").first(), "more").click();
  await it.page.getByRole("link", { name: "0".repeat(31) + "1" }).click();
  await it.page.getByRole("heading", { name: "0".repeat(31) + "1" }).waitFor();
  await it.end();
});

test("traces are looked for by service, length, errors and id, and a span is opened", async () => {
  const it = await stage({});
  await it.visit("/traces");
  await it.page.getByLabel("Service").fill("svc-000.shop");
  await it.page.getByLabel("Longer than, in milliseconds").fill("50x");
  // Figures that come meanwhile take nothing away of what is typed.
  await it.page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await it.page.waitForTimeout(300);
  await button(it.page, "With errors").click();
  assert.deepEqual([it.query().get("service"), it.query().get("minDurationMs"), it.query().get("errors")], ["svc-000.shop", "50", "true"]);
  await it.page.waitForFunction(() => performance.getEntriesByType("resource").some((one) => one.name.includes("/traces?service=svc-000.shop&minDurationMs=50&errors=true")));
  assert.equal(await it.page.locator(".command code").textContent(), "meshctl traces --service svc-000.shop --min-duration 50ms --errors");
  await button(it.page, "All").click();
  assert.equal(it.query().get("errors"), null);
  await it.page.getByLabel("Trace id").fill("abc");
  await it.page.getByLabel("Trace id").press("Enter");
  await it.page.getByRole("heading", { name: "abc" }).waitFor();
  const span = it.page.locator(".waterfall .line.error");
  await span.click();
  await it.page.locator(".tags-of").getByText("http.status_code").waitFor();
  const link = it.page.url();
  await span.click();
  await it.page.locator(".tags-of").waitFor({ state: "detached" });
  await it.page.goto(link);
  await it.page.locator(".tags-of").getByText("503").waitFor();
  await it.page.getByRole("link", { name: "Traces" }).last().click();
  await it.page.getByRole("heading", { name: "Traces" }).waitFor();
  await it.end();
});

test("objects are filtered by name, kind and findings, opened, and have a history", async () => {
  const it = await stage({});
  await it.visit("/config");
  const rows = it.page.getByRole("region", { name: "Objects" }).locator("tbody tr");
  const all = await rows.count();
  await it.page.getByLabel("Kind").selectOption("VirtualService");
  await it.page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 1);
  assert.equal(await it.page.locator(".command code").textContent(), "meshctl get VirtualService");
  await it.page.getByLabel("Kind").selectOption("");
  await it.page.waitForFunction((all) => document.querySelectorAll("tbody tr").length === all, all);
  await it.page.getByLabel("Filter by name").fill("svc-001");
  await it.page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 2);
  await it.page.getByLabel("with findings").check();
  await it.page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 1);
  assert.deepEqual([it.query().get("filter"), it.query().get("findings")], ["svc-001", "1"]);
  await rows.getByRole("link", { name: "shop/svc-001" }).click();
  await it.page.getByRole("link", { name: "History", exact: true }).last().click();
  await button(it.page, "VirtualService svc-001 ✕").click();
  assert.equal(it.query().get("kind"), null);
  const revision = button(it.page, "12");
  await revision.click();
  assert.equal(it.query().get("revision"), "12");
  await it.page.locator(".difference .plus").getByText("3s").waitFor();
  assert.equal(await it.page.locator(".command code").textContent(), "meshctl history --diff 12");
  await revision.click();
  await it.page.locator(".difference").waitFor({ state: "detached" });
  await button(it.page, "Go back…").first().click();
  const dialog = it.page.getByRole("dialog");
  await button(dialog, "Cancel").click();
  await dialog.waitFor({ state: "detached" });
  assert.equal(it.said("POST", "/rollback").length, 0);
  await it.end();
});

test("an object is made anew, and another is deleted after a question", async () => {
  const it = await stage({});
  await it.visit("/config");
  await it.page.getByRole("link", { name: "New…" }).click();
  const text = it.page.getByLabel("YAML");
  assert.match(await text.inputValue(), /kind: VirtualService/);
  await text.fill("kind: Nothing");
  await button(it.page, "Review changes").click();
  await it.page.getByText("This change would be refused").waitFor();
  assert.ok(await button(it.page, "Apply").isDisabled());
  await button(it.page, "Cancel").click();
  await it.page.getByRole("heading", { name: "Configuration" }).waitFor();
  await it.visit("/config/VirtualService/shop/svc-001");
  await button(it.page, "Edit").click();
  await text.fill("kind: Other");
  await button(it.page, "Cancel").click();
  await it.page.locator(".yaml").waitFor();
  assert.equal(it.said("POST", "/resources").length, 0);
  const dialog = it.page.getByRole("dialog");
  await button(it.page, "Delete…").click();
  await button(dialog, "Cancel").click();
  assert.equal(it.said("DELETE", "/resources/VirtualService/shop/svc-001").length, 0);
  await button(it.page, "Delete…").click();
  await button(dialog, "Delete").click();
  await it.page.getByRole("heading", { name: "Configuration" }).waitFor();
  assert.equal(it.said("DELETE", "/resources/VirtualService/shop/svc-001").length, 1);
  await it.end();
});

test("in a cluster an object is changed with the rights that the API server gives, and what is lacking is said", async () => {
  const it = await stage({ about: { inCluster: true } });
  await it.visit("/config/VirtualService/shop/svc-001");
  await button(it.page, "Edit").click();
  const text = it.page.getByLabel("YAML");
  assert.doesNotMatch(await text.inputValue(), /resourceVersion/);
  await text.fill((await text.inputValue()).replace('"3s"', "5s"));
  await button(it.page, "Review changes").click();
  await it.page.getByText("spec.http[1].timeout").waitFor();
  await button(it.page, "Apply").click();
  await button(it.page, "Edit").waitFor();
  const [applied] = it.said("POST", "/resources");
  assert.equal(applied.body.resourceVersion, "77", "what was seen is what is replaced");
  await button(it.page, "Delete…").click();
  await it.page.getByRole("dialog").getByText("keeps no history").waitFor();
  await button(it.page.getByRole("dialog"), "Cancel").click();
  it.mesh.rights = { change: true, delete: false, lacks: "delete of virtualservices.networking.istio.io in namespace shop" };
  await it.visit("/config/VirtualService/shop/svc-001");
  await button(it.page, "Edit").waitFor();
  assert.equal(await button(it.page, "Delete…").count(), 0);
  it.mesh.rights = { change: false, delete: false, lacks: "update and delete of virtualservices.networking.istio.io in namespace shop" };
  await it.visit("/config/VirtualService/shop/svc-001");
  await it.page.getByText("it takes the right to update and delete of virtualservices.networking.istio.io in namespace shop").waitFor();
  await it.page.getByText("kubectl edit virtualservice svc-001 -n shop").waitFor();
  assert.equal(await button(it.page, "Edit").count(), 0);
  await accessible(it.page, "an object that may not be changed");
  it.mesh.role = "viewer";
  await it.visit("/config/VirtualService/shop/svc-001");
  await it.page.getByText("This window only looks.").waitFor();
  assert.equal(await button(it.page, "Edit").count(), 0);
  await it.end();
});

test("the matrix is of a method and a path, and says why of each cell", async () => {
  const it = await stage({});
  await it.visit("/authz");
  await it.page.getByLabel("Method").selectOption("POST");
  await it.page.getByLabel("Path").fill("/admin");
  await it.page.getByLabel("Path").press("Enter");
  await it.page.getByText("May call with POST /admin").waitFor();
  await it.page.waitForFunction(() => performance.getEntriesByType("resource").some((one) => one.name.includes("/authz/matrix?method=POST&path=%2Fadmin")));
  const cell = it.page.getByTitle(/^somebody without an identity → svc-003\.payments/);
  await cell.click();
  assert.equal(await cell.getAttribute("aria-pressed"), "true");
  await it.page.getByText("rule 1 of ALLOW callers.shop holds").waitFor();
  assert.equal(await it.page.locator(".command code").textContent(), "meshctl authz check POST /admin --to svc-003.payments");
  await it.page.getByTitle(/^svc-000-v1\.shop → svc-001\.shop/).click();
  assert.match(await it.page.locator("dl").last().textContent(), /in the last 15 minutes/);
  await it.end();
});

test("proxies are filtered, and their parts shown", async () => {
  const it = await stage({});
  await it.visit("/proxies");
  await it.page.getByText("Proxies of 2 versions are connected").waitFor();
  await it.page.getByLabel("Filter by name").fill("svc-004");
  const rows = it.page.getByRole("region", { name: "Proxies" }).locator("tbody > tr");
  await it.page.waitForFunction(() => document.querySelectorAll("main tbody > tr").length === 1);
  assert.equal(it.query().get("filter"), "svc-004");
  await rows.first().getByText("behind").waitFor();
  await button(rows.first(), "parts").click();
  await it.page.getByRole("cell", { name: "LDS", exact: true }).waitFor();
  await button(rows.first(), "parts").click();
  await it.page.getByRole("cell", { name: "LDS", exact: true }).waitFor({ state: "detached" });
  await it.end();
});

test("a canary page leads to its service, and shifts what no rollout moves", async () => {
  const it = await stage({});
  it.mesh.rollouts.delete("svc-001.shop");
  await it.visit("/canaries/svc-001.shop");
  await button(it.page, "Shift…").click();
  const dialog = it.page.getByRole("dialog");
  await dialog.getByLabel("v2").fill("50");
  await button(dialog, "Cancel").click();
  await it.page.getByRole("link", { name: "Service", exact: true }).click();
  await it.page.getByRole("heading", { name: "svc-001.shop", level: 1 }).waitFor();
  await it.end();
});

test("everything that can be pressed, chosen or typed into was used", () => {
  const unused = [...seen].filter(([key]) => !used.has(key)).map(([key, text]) => `${key} (${text})`);
  console.log(`${seen.size} controls were seen`);
  assert.ok(seen.size > 100, `${seen.size}`);
  assert.deepEqual(unused, []);
});
