// A formula in a line of text that is wider than the text gets a box in which it scrolls. (Displayed equations have
// one from the style sheet; a box around every small formula would shift it off the line.)
window.addEventListener("load", () => {
  const box = () => document.querySelectorAll(".bd-article span.math").forEach((formula) => {
    const inner = formula.querySelector("mjx-container");
    const text = formula.closest("p, li, td, dd, div");
    if (inner && text) formula.classList.toggle("wide", inner.getBoundingClientRect().width > text.clientWidth);
  });
  const ready = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
  if (ready) ready.then(() => { box(); window.addEventListener("resize", box); });
});
