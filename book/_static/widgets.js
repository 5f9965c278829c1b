// Widgets on a page without a kernel.
//
// The theme replaces each icon <i> by an <svg>, which breaks the Play button's icons. Nesting keeps the <i>.
window.FontAwesomeConfig = { autoReplaceSvg: "nest" };
if (window.FontAwesome && window.FontAwesome.config) window.FontAwesome.config.autoReplaceSvg = "nest";

// ipywidgets 8 asks MathJax 2's queue to typeset its labels; pass that on to MathJax 3.
(function () {
  function typeset(element, attempts) {
    const mathjax = window.MathJax;
    if (!(mathjax && mathjax.typesetPromise)) {
      if (attempts > 0) setTimeout(() => typeset(element, attempts - 1), 200);
      return;
    }
    if (element.children.length === 0 && /\$[^$]+\$/.test(element.textContent)) {
      element.textContent = element.textContent.replace(/\$([^$]+)\$/g, "\\($1\\)");
      element.classList.add("mathjax_process");
    }
    mathjax.typesetPromise([element]);
  }
  function offerQueue() {
    const mathjax = window.MathJax;
    if (mathjax && !mathjax.Hub) {
      mathjax.Hub = { Queue: (call) => { if (call && call[0] === "Typeset") typeset(call[2], 50); } };
    }
  }
  offerQueue();
  const waiting = setInterval(offerQueue, 50);
  window.addEventListener("load", () => { offerQueue(); setTimeout(() => clearInterval(waiting), 5000); });
})();
