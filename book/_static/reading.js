// What helps reading: figures that open at their own size, folded code with one switch for the whole book, and boxes
// that scroll within reach of the keyboard.
(function () {
  "use strict";

  // --- Figures: a click, a tap or Enter opens them at their natural size, in a box that scrolls.

  function enlarge(image) {
    const dialog = document.createElement("dialog"), close = document.createElement("button"), box = document.createElement("div");
    const copy = image.cloneNode(), room = document.documentElement.clientWidth * 0.95;
    // A figure whose panels a phone shows below each other opens as it was drawn.
    const own = image.closest("picture") ? Number(image.getAttribute("width")) : image.naturalWidth;
    copy.removeAttribute("id");
    copy.loading = "eager";
    // On a large screen as large as fits, on a small one as large as it was drawn.
    copy.style.width = Math.max(own, Math.min(room, 1.5 * own)) + "px";
    copy.style.height = "auto";
    dialog.className = "enlarged";
    dialog.setAttribute("aria-label", "Figure, enlarged");
    close.type = "button";
    close.textContent = "Close";
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "figure, scrolls");
    box.append(copy);
    dialog.append(close, box);
    document.body.append(dialog);
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => dialog.remove());
    dialog.showModal();
  }
  function offerEnlarging() {
    document.querySelectorAll(".bd-article :is(.cell_output, figure) img").forEach((image) => {
      const toItself = image.closest("a.image-reference");  // Sphinx's, round a picture of a given size
      const shown = image.closest("picture") || image;
      if (toItself) toItself.replaceWith(shown);
      if (image.closest(".jupyter-widgets, a, .enlargeable")) return;
      const frame = document.createElement("span"), button = document.createElement("button"), box = document.createElement("span");
      frame.className = "enlargeable";
      box.className = "sideways";  // on a phone a figure is as wide as its letters need, and scrolls
      button.type = "button";
      button.textContent = "\u2922";
      button.setAttribute("aria-label", "Enlarge the figure");
      shown.replaceWith(frame);
      box.append(shown);
      frame.append(box, button);
      // A picture that waits for its reader has no size before it is there.
      const open = () => image.decode().then(() => enlarge(image));
      image.addEventListener("click", open);
      button.addEventListener("click", open);
    });
  }

  // --- Code: folded where it only draws, with a switch that is remembered.

  const KEY = "show-all-code";
  const remembered = () => { try { return localStorage.getItem(KEY) === "yes"; } catch { return false; } };
  function offerSwitch() {
    const folded = document.querySelectorAll(".cell details.hide.above-input");
    const title = document.querySelector(".bd-article h1");
    document.querySelectorAll(".cell details.hide > summary").forEach((summary) => summary.removeAttribute("aria-label"));
    if (!folded.length || !title) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "code-switch";
    function show(all) {
      folded.forEach((details) => { details.open = all; });
      button.setAttribute("aria-pressed", all);
    }
    button.textContent = "Show all code";
    button.addEventListener("click", () => {
      const all = button.getAttribute("aria-pressed") !== "true";
      try { localStorage.setItem(KEY, all ? "yes" : "no"); } catch { /* private windows: for this page only */ }
      show(all);
    });
    title.after(button);
    show(remembered());
  }

  // --- What scrolls is a stop for the keyboard, and nothing else is.

  const SCROLLS = ".bd-article :is(.sideways, .pst-scrollable-table-container, .cell_output .output, div.math, div.math mjx-container, span.math.wide, .highlight pre)";
  function reach() {
    document.querySelectorAll(SCROLLS).forEach((box) => {
      const wide = box.scrollWidth > box.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(box).overflowX);
      if (wide) box.tabIndex = 0; else box.removeAttribute("tabindex");
      const what = box.matches(".sideways") ? "figure" : box.matches(".pst-scrollable-table-container") ? "table" : null;
      if (!what) return;
      if (wide) { box.setAttribute("role", "group"); box.setAttribute("aria-label", `${what}, scrolls sideways`); }
      else { box.removeAttribute("role"); box.removeAttribute("aria-label"); }
      box.classList.toggle("scrolls", wide);
      if (what === "figure") return;
      // The first column names the rows: it stays in view, unless it would fill it.
      const first = box.querySelector("th, td");
      box.classList.toggle("sticky-first", wide && !!first && first.getBoundingClientRect().width < 0.45 * box.clientWidth);
    });
  }

  function start() {
    offerEnlarging();
    offerSwitch();
    reach();
    document.querySelectorAll("summary").forEach((summary) => {
      if (!summary.textContent.trim() && !summary.ariaLabel) summary.setAttribute("aria-label", "Pages below");
    });
    // The theme's search field says "Search Ctrl+K" and is named "Search"; its sidebar is no landmark.
    document.querySelectorAll(".search-button-field").forEach((button) => button.removeAttribute("aria-label"));
    document.querySelectorAll(".bd-sidebar-primary").forEach((sidebar) => {
      sidebar.setAttribute("role", "complementary");
      sidebar.setAttribute("aria-label", "Book");
    });
    window.addEventListener("resize", reach);
    document.addEventListener("toggle", reach, true);
    const ready = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
    if (ready) ready.then(reach);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start); else start();
  window.addEventListener("load", () => {
    const ready = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
    if (ready) ready.then(reach); else reach();
  });
})();
