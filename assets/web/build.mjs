// Builds assets/dist. The same sources give the same bytes, whichever machine builds them: esbuild's version is
// pinned, and so is what compresses: zopfli takes a second and 4 % off what zlib makes.
import { build } from "esbuild";
import zopfli from "@gfx/zopfli";
import { gunzipSync } from "node:zlib";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const dist = process.env.DIST ?? join(here, "../dist");
mkdirSync(dist, { recursive: true });

await build({
  absWorkingDir: here,
  entryPoints: { app: "src/main.tsx", layout: "src/graph/layout.worker.ts" },
  outdir: dist,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  charset: "utf8",
  logLevel: "warning",
});

// What others wrote is passed on with their terms.
const { dependencies } = JSON.parse(readFileSync(join(here, "package.json")));
const terms = Object.entries(dependencies).map(([name, version]) => `${name} ${version}\n\n${readFileSync(join(here, "node_modules", name, "LICENSE"), "utf8").trim()}\n`);
writeFileSync(join(dist, "licenses.txt"), terms.join("\n----\n\n"));

const files = ["index.html", "icon.svg", "app.js", "app.css", "layout.js", "licenses.txt"];
for (const name of ["index.html", "icon.svg"]) writeFileSync(join(dist, name), readFileSync(join(here, name)));

let sum = 0;
for (const name of files) {
  const plain = readFileSync(join(dist, name));
  const twin = join(dist, `${name}.gz`);
  let kept = false;
  try {
    kept = existsSync(twin) && gunzipSync(readFileSync(twin)).equals(plain);
  } catch {
    // Not gzip: written anew.
  }
  if (!kept) writeFileSync(twin, await zopfli.gzipAsync(plain, { numiterations: 15 }));
  const size = readFileSync(twin).length;
  // The page does not load it.
  if (name !== "licenses.txt") sum += size;
  console.log(`${name.padEnd(12)} ${String(plain.length).padStart(8)} ${String(size).padStart(8)} gzip`);
}
console.log(`${"all".padEnd(12)} ${"".padStart(8)} ${String(sum).padStart(8)} gzip`);
if (sum > 80 * 1024) {
  console.error("the bundle is larger than 80 KB compressed");
  process.exit(1);
}
