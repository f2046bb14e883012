// Walks the site in a real browser: node browse.mjs SITE CHROMIUM PLAYWRIGHT PAGE... -> what it saw, as JSON.
// Prints per page: errors, requests that left the site, equations (and broken ones), widgets, the background's colours.
import { pathToFileURL } from "node:url";
import path from "node:path";

const [site, chromiumPath, playwrightPath, ...names] = process.argv.slice(2);
const { chromium } = (await import(pathToFileURL(path.join(playwrightPath, "index.js")).href)).default;
const browser = await chromium.launch({ executablePath: chromiumPath, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
page.setDefaultTimeout(240000);
let seen;
page.on("pageerror", (error) => seen.errors.push(String(error)));
page.on("console", (line) => line.type() === "error" && seen.errors.push(line.text()));
page.on("request", (one) => /^(file|data|blob|about):/.test(one.url()) || seen.outside.push(one.url()));

const address = (name) => pathToFileURL(path.join(site, name)).href;
const colour = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);

async function look(name) {
  seen = { page: name, errors: [], outside: [] };
  await page.goto(address(name), { waitUntil: "load" });
  await page.waitForFunction(() => !document.querySelector("div.math, span.math") ||
    (window.MathJax?.startup?.promise && document.querySelectorAll("mjx-container").length >=
      document.querySelectorAll("div.math, span.math").length));
  Object.assign(seen, await page.evaluate(() => ({
    math: document.querySelectorAll("div.math, span.math").length,
    rendered: document.querySelectorAll("mjx-container").length,
    broken: document.querySelectorAll("mjx-merror").length,
    widgets: document.querySelectorAll("script[type='application/vnd.jupyter.widget-view+json']").length,
  })));
  if (seen.widgets) {
    await page.waitForSelector(".jupyter-widgets, .widget-subarea > *");
    seen.drawn = await page.evaluate(() => document.querySelectorAll(".jupyter-widgets").length);
  }
  for (const theme of ["light", "dark"]) {
    await page.evaluate((name) => { document.documentElement.dataset.theme = name; }, theme);
    seen[theme] = await colour();
  }
  return seen;
}

async function search(words) {
  seen = { page: `search: ${words}`, errors: [], outside: [] };
  await page.goto(`${address("search.html")}?q=${encodeURIComponent(words)}`, { waitUntil: "load" });
  await page.waitForSelector("#search-results li a");
  seen.found = await page.evaluate(() => [...document.querySelectorAll("#search-results li a")].map((a) => a.textContent));
  seen.errors = seen.errors.filter((text) => !/fetch|CORS|file:/i.test(text));  // a file cannot fetch its summaries
  return seen;
}

const report = [];
for (const name of names) report.push(await look(name));
report.push(await search("skinning"));
await browser.close();
console.log(JSON.stringify(report));
