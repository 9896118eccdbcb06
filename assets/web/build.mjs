// Builds assets/dist. The same sources give the same bytes, whichever machine builds them: esbuild's version is
// pinned, and so is what makes its output smaller: terser takes 5 % off it, and zopfli 4 % off what zlib makes.
import { build } from "esbuild";
import zopfli from "@gfx/zopfli";
import { minify } from "terser";
import { gunzipSync } from "node:zlib";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const dist = process.env.DIST ?? join(here, "../dist");
mkdirSync(dist, { recursive: true });

/// Leaves out what the libraries hold for others. Pieces that are not found end the build, so that a new version of one
/// is looked at.
const less = {
  name: "less",
  setup(build) {
    build.onLoad({ filter: /uPlot\.esm\.js$/ }, ({ path }) => {
      // Curves, bars and steps: nothing else would hold them.
      const [before, rest, more] = readFileSync(path, "utf8").split(/^uPlot\.assign = assign;$/m);
      const ends = "export { uPlot as default };";
      if (!rest?.trimEnd().endsWith(ends) || more) throw new Error("uPlot's exports are not where they were");
      return { contents: before + ends };
    });
    const graphlib = join(here, "src/graph/walk.mjs");
    build.onResolve({ filter: /^@dagrejs\/dagre$/ }, () => ({ path: join(here, "node_modules/@dagrejs/dagre/dist/dagre.cjs") }));
    build.onResolve({ filter: /^@dagrejs\/graphlib$/ }, () => ({ path: graphlib }));
    build.onLoad({ filter: /graphlib\.esm\.js$/ }, ({ path }) => {
      // Its namespaces are filled by calls, which would keep all that is in them.
      const text = readFileSync(path, "utf8");
      const contents = text.replace(/(var (\w+)=\{\};)(\w+\(\2,\{)/g, "$1/* @__PURE__ */$3");
      if (contents === text) throw new Error("graphlib's namespaces are not where they were");
      return { contents };
    });
    build.onResolve({ filter: /^@dagrejs\/graphlib\// }, ({ path }) => ({ path: join(here, "node_modules", path) }));
  },
};

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
  plugins: [less],
});

for (const name of ["app.js", "layout.js"]) {
  const { code } = await minify(readFileSync(join(dist, name), "utf8"), { module: true, ecma: 2020, compress: { passes: 3, unsafe_arrows: true, unsafe_methods: true } });
  writeFileSync(join(dist, name), code);
}

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
if (sum > 80_000) {
  console.error("the bundle is larger than 80 KB (80,000 bytes) compressed");
  process.exit(1);
}
