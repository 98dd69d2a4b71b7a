/** A headless Chromium of the system. */

import { existsSync } from "node:fs";

import { chromium } from "playwright-core";

const PLACES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/** @param {string[]} [flags] */
export async function launch(flags = []) {
  const executablePath = PLACES.find((place) => existsSync(place));
  if (!executablePath) throw new Error("no Chromium here; run: apt-get install chromium");
  // Chromium refuses its sandbox to root.
  return chromium.launch({ executablePath, args: ["--no-sandbox", ...flags] });
}
