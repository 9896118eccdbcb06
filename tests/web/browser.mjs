// A browser, and what every test of a page wants of it: no error, no request to anywhere else, nothing that somebody
// cannot read.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const shots = process.env.SHOTS ?? "/tmp/meshctl-shots";
mkdirSync(shots, { recursive: true });

export async function launch() {
  return await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });
}

/// A window that opened `link`, and what went wrong in it.
export async function open(browser, link, { theme = "light", width = 1280, height = 800, before = undefined } = {}) {
  // Scripts of the test itself are not the page's, which runs none but its own.
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: theme, bypassCSP: false });
  await before?.(context);
  const page = await context.newPage();
  const origin = new URL(link).origin;
  const wrong = [];
  page.on("console", (said) => { if (said.type() === "error" || said.type() === "warning") wrong.push(`${said.type()}: ${said.text()} ${said.location().url}`); });
  page.on("pageerror", (error) => wrong.push(`exception: ${error.stack}`));
  page.on("request", (request) => { if (new URL(request.url()).origin !== origin && !request.url().startsWith("data:")) wrong.push(`request to ${request.url()}`); });
  await page.goto(link);
  await page.locator("h1").waitFor();
  const visit = async (path) => {
    await page.goto(origin + path);
    await page.locator("h1").waitFor();
    await settled(page);
  };
  const shot = async (name) => await page.screenshot({ path: join(shots, `${name}-${theme}-${width}.png`), fullPage: width > 600 });
  const fine = () => assert.deepEqual(wrong.splice(0), []);
  return { page, origin, visit, shot, fine, wrong, close: () => context.close() };
}

/// Everything that was asked for is there.
export async function settled(page) {
  await page.locator(".loading").first().waitFor({ state: "detached", timeout: 10_000 });
}

/// Fails on what axe calls serious or critical.
export async function accessible(page, where) {
  // Added by the protocol of the debugger, which the page's own policy does not concern.
  await page.evaluate(axe);
  const { violations } = await page.evaluate(async () => await globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const bad = violations.filter((one) => one.impact === "serious" || one.impact === "critical");
  const told = bad.map((one) => `${where}: ${one.id} (${one.impact}): ${one.help}\n  ${one.nodes.slice(0, 4).map((node) => `${node.html.slice(0, 160)} ${node.failureSummary?.replaceAll("\n", " ").slice(0, 200)}`).join("\n  ")}`);
  assert.deepEqual(told, []);
}
