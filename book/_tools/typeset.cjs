// Typeset formulas without a browser: MathJax's own scripts, as the pages load them, with a small model of a page.
//
//     node typeset.cjs FOLDER < REQUEST > ANSWER
//
// FOLDER holds what `vendor.py` put there. REQUEST is JSON: `config`, what the pages give MathJax, `fonts`, where its
// fonts are from the style sheet on, and `formulas`, pairs of TeX and whether it is displayed. ANSWER is JSON, too:
// `formulas`, for each one its HTML or, where there is none, why: {"left": reason}; and `css`, one style sheet for all.
"use strict";
const fs = require("fs"), path = require("path");
const folder = path.resolve(process.argv[2]);
const { config, fonts, formulas } = JSON.parse(fs.readFileSync(0, "utf8"));

// A command that nobody has defined is an error here, not red letters.
const packages = (config.tex || {}).packages || {};
global.MathJax = {
  ...config,
  loader: { ...config.loader, paths: { mathjax: folder }, require },
  startup: { typeset: false, document: "" },
  tex: { ...config.tex, packages: { ...packages, "[-]": [...(packages["[-]"] || []), "noundefined"] } },
  chtml: { ...config.chtml, fontURL: fonts },
};
require(path.join(folder, "book.js"));
require(path.join(folder, "adaptors/liteDOM.js"));

async function typeset(tex, display, adaptor) {
  MathJax.texReset();
  let html;
  try { html = adaptor.outerHTML(await MathJax.tex2chtmlPromise(tex, { display })); }
  catch (error) { return { left: error.message.split("\n")[0] }; }
  const error = /<mjx-merror data-mjx-error="([^"]*)"/.exec(html);
  if (error) return { left: error[1] };
  // A letter that MathJax's fonts lack has the width that a reader's own font gives it.
  if (html.includes("<mjx-utext")) return { left: "a letter without a font of MathJax" };
  return html.replace(/ style="height: NaNem;"/g, "");  // a browser takes no notice of it either
}

MathJax.startup.promise.then(async () => {
  const adaptor = MathJax.startup.adaptor, found = [];
  for (const [tex, display] of formulas) found.push(await typeset(tex, display, adaptor));
  const css = adaptor.textContent(MathJax.chtmlStylesheet());
  process.stdout.write(JSON.stringify({ formulas: found, css }));
}).catch((error) => { console.error(error); process.exitCode = 1; });
