/**
 * Usage: node run_chromium.mjs CASES.json RESULTS.json
 * Runs cases in a headless Chromium. Absolute paths in them are folders of bundles.
 */

import { readFile, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

import { launch } from "./chromium.mjs";
import { serve } from "./server.mjs";

const [casesFile, resultsFile] = process.argv.slice(2);
/** @type {{ kind: string, args: any[] }[]} */
const cases = JSON.parse(await readFile(casesFile, "utf8"));
const module = dirname(dirname(fileURLToPath(import.meta.url)));

const places = new Set(cases.map(({ args }) => args[0]).filter((place) => String(place).startsWith("/")));
const prefixes = new Map([...places].map((folder, index) => [folder, `/bundle${index}/`]));
for (const { args } of cases) args[0] = prefixes.get(args[0]) ?? args[0];
const folders = Object.fromEntries([...prefixes].map(([folder, prefix]) => [prefix, folder]));

const server = await serve({ ...folders, "/": module });
const browser = await launch();
try {
  const tab = await browser.newPage();
  tab.on("pageerror", (error) => console.error(error));
  await tab.goto(`${server.url}/testing/cases.html`);
  await tab.waitForFunction("window.ready", undefined, { timeout: 60000 });
  const results = await tab.evaluate((list) => /** @type {any} */ (window).run(list), cases);
  await writeFile(resultsFile, JSON.stringify(results));
} finally {
  await browser.close();
  server.close();
}
