// A formula in a line of text that is wider than the text gets a box in which it scrolls. (Displayed equations have
// one from the style sheet; a box around every small formula would shift it off the line.)
window.addEventListener("load", () => {
  const box = () => {
    // Measured first and changed after that: a change between two measures lays out the page anew for each.
    const found = [...document.querySelectorAll(".bd-article span.math")].map((formula) => {
      const inner = formula.querySelector("mjx-container"), text = formula.closest("p, li, td, dd, div");
      return [formula, !!inner && !!text && inner.getBoundingClientRect().width > text.clientWidth];
    });
    found.forEach(([formula, wide]) => formula.classList.toggle("wide", wide));
  };
  const ready = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
  const start = () => { box(); window.addEventListener("resize", box); };
  if (ready) ready.then(start); else start();  // where the build has typeset the page, at once
});
