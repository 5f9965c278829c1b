// For formulas that the build has not typeset (book/_tools/typeset.py): all of up to 500, where it had no node. Those
// that a reader sees are typeset first, and the others in portions, the nearest ones next, so that neither the text nor
// a finger waits for the end of a chapter. On paper all of them are. MathJax
// begins here: `_config.yml` gives it `bookFormulas` as what it does when the page is there. Its promise
// (MathJax.startup.promise) holds when the last formula stands.
(function () {
  "use strict";
  const AHEAD = 0.5, PORTION = 100, PATIENCE = 3000;  // screens beyond the one that is seen; formulas; milliseconds
  let waiting = [], moved = false;
  ["wheel", "touchstart", "pointerdown", "keydown"].forEach((kind) =>
    addEventListener(kind, () => { moved = true; }, { capture: true, passive: true }));

  // A page that glides to the place that its address names would glide to where that place has been.
  if (location.hash) document.documentElement.style.scrollBehavior = "auto";

  // How many pixels a formula is away from what is seen; one in a closed box is not seen anywhere.
  function distance(formula) {
    const box = formula.getBoundingClientRect();
    return box.width || box.height ? Math.max(box.top - innerHeight, -box.bottom, 0) : Infinity;
  }
  // Take the nearest ones out of those that wait: all within reach, or a number of them.
  function take(reach, number) {
    const near = waiting.map((formula) => [distance(formula), formula]).sort((a, b) => a[0] - b[0]);
    const count = near.filter(([away]) => away <= reach).length || number;
    waiting = near.slice(count).map(([, formula]) => formula);
    return near.slice(0, count).map(([, formula]) => formula);
  }
  // What the address names stays in view while formulas above it grow, unless the reader has moved since.
  function keepPlace() {
    const how = performance.getEntriesByType("navigation")[0];
    if (moved || !location.hash || (how && how.type !== "navigate")) return;
    const place = document.querySelector(":target");
    if (place) place.scrollIntoView({ behavior: "instant" });
  }

  // One that fails, since what it needs did not arrive, keeps no other from being typeset.
  async function typeset(formulas) {
    try { await MathJax.typesetPromise(formulas); } catch {
      for (const formula of formulas || []) await MathJax.typesetPromise([formula]).catch(() => {});
    }
  }

  window.bookFormulas = async function () {
    waiting = [...document.querySelectorAll(".math")]
      .filter((formula) => !formula.querySelector("mjx-container") && !formula.parentElement.closest(".math"));
    keepPlace();
    // Typeset, a formula is smaller than its TeX: others come into view.
    let first = 0;
    for (let near = take(AHEAD * innerHeight, 0); near.length; near = take(0, 0)) {
      first += near.length;
      await typeset(near);
      keepPlace();
    }
    performance.mark("formulas in view", { detail: first });
    // Their letters come before any other work.
    await Promise.race([document.fonts.ready, new Promise((done) => setTimeout(done, PATIENCE))]);
    while (waiting.length) {
      await new Promise((done) => setTimeout(done));
      await typeset(take(0, PORTION));
    }
    await typeset();  // what a notebook's output says in TeX
    keepPlace();
    performance.mark("all formulas");
    document.documentElement.style.scrollBehavior = "";
  };
  addEventListener("beforeprint", () => {
    const rest = waiting;
    waiting = [];
    try { MathJax.typeset(rest); } catch {
      rest.forEach((formula) => { try { MathJax.typeset([formula]); } catch { waiting.push(formula); } });
    }
  });
})();
