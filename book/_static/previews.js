// What a link leads to, shown beside it: equations, figures, tables, references and glossary terms. A mouse that rests
// on the link opens it, or the keyboard's focus; Escape closes it. A finger goes where the link leads. The texts are
// written by book/_tools/previews.py, a file for each page, which is loaded when it is first pointed at.
(function () {
  "use strict";
  const ANCHOR = /^#(?:(?:eq|fig|tab|term)-.+|id\d+)$/, OPENS = 250, CLOSES = 200, GAP = 8;  // milliseconds, pixels
  const root = new URL(document.documentElement.dataset.content_root || "./", location.href);
  const texts = window.bookPreviews = {}, asked = {};
  const box = document.createElement("div");
  box.id = "preview";
  box.setAttribute("role", "tooltip");
  box.hidden = true;
  let link = null, timer = 0;

  // The page that a link leads to, such as book/05_deep_kalman_filters.
  const pageOf = url => decodeURI(url.href.slice(root.href.length).split("#")[0]).replace(/\.html$/, "");
  const anchorOf = url => decodeURIComponent(url.hash.slice(1));
  function load(page) {
    return asked[page] = asked[page] || new Promise(done => {
      const script = document.createElement("script");
      script.src = `${root.href}_static/previews/${page}.js`;
      script.onload = script.onerror = done;
      document.head.append(script);
    });
  }
  function target(element) {
    const found = element.closest && element.closest(".bd-article a[href]");
    if (!found || found.matches(".headerlink")) return null;
    const url = new URL(found.href);
    return ANCHOR.test(url.hash) && url.href.startsWith(root.href + "book/") ? found : null;
  }
  // Whether a reader sees the place already.
  function inView(url) {
    const place = url.pathname === location.pathname && document.getElementById(anchorOf(url));
    const room = place && place.getBoundingClientRect();
    return room && room.top >= 0 && room.bottom <= innerHeight && room.height > 0;
  }

  async function open(next) {
    const url = new URL(next.href), page = pageOf(url);
    if (next === link) return;
    close();
    if (inView(url)) return;
    link = next;
    await load(page);
    const text = (texts[page] || {})[anchorOf(url)];
    if (link !== next || !text) { if (link === next) link = null; return; }
    box.innerHTML = text.replaceAll('"@/', `"${root.href}`);
    if (url.pathname !== location.pathname && anchorOf(url).startsWith("eq-")) {
      const from = document.createElement("p");
      from.className = "preview-from";
      from.innerHTML = texts[page][""];
      box.append(from);
    }
    box.style.fontSize = "";
    box.style.visibility = "hidden";
    box.hidden = false;
    // Where the build has not typeset them, the page may have nothing that does.
    const raw = [...box.querySelectorAll(".math")].filter(formula => !formula.querySelector("mjx-container"));
    if (raw.length && window.MathJax && window.MathJax.typesetPromise) await window.MathJax.typesetPromise(raw).catch(() => {});
    else raw.forEach(formula => formula.replaceWith("\u2026"));
    await Promise.all([...box.querySelectorAll("img")].map(image => image.decode().catch(() => image.remove())));
    if (link !== next) return;
    place();
    next.setAttribute("aria-describedby", "preview");
  }
  // Below the link, or above it where there is more room; what is too wide is made smaller.
  function place() {
    const wide = Math.max(box.clientWidth, ...[...box.querySelectorAll("mjx-math, table")].map(part => part.scrollWidth + 32));
    if (wide > box.clientWidth) box.style.fontSize = 0.92 * Math.max(0.6, box.clientWidth / wide) + "rem";
    const at = link.getClientRects()[0], size = box.getBoundingClientRect(), width = document.documentElement.clientWidth;
    const above = at.bottom + size.height + GAP > innerHeight && at.top > innerHeight - at.bottom;
    const home = (box.offsetParent || document.body).getBoundingClientRect();
    box.style.left = Math.max(GAP, Math.min(at.left, width - size.width - GAP)) - home.left + "px";
    box.style.top = (above ? at.top - size.height - GAP : at.bottom + GAP) - home.top + "px";
    box.style.visibility = "";
  }
  function close() {
    clearTimeout(timer);
    if (link) link.removeAttribute("aria-describedby");
    link = null;
    if (box.hidden) return;
    box.hidden = true;
    if (window.MathJax && window.MathJax.typesetClear) window.MathJax.typesetClear([box]);
    box.replaceChildren();
  }
  function soon(action, wait) { clearTimeout(timer); timer = setTimeout(action, wait); }

  document.addEventListener("pointerover", event => {
    if (event.pointerType !== "mouse") return;
    const next = target(event.target);
    if (next) { load(pageOf(new URL(next.href))); soon(() => open(next), OPENS); }
    else if (box.contains(event.target)) clearTimeout(timer);
    else if (link && document.activeElement !== link) soon(close, CLOSES);
    else if (!link) clearTimeout(timer);
  });
  document.addEventListener("focusin", event => {
    const next = target(event.target);
    if (next && next.matches(":focus-visible")) open(next); else close();
  });
  document.addEventListener("focusout", close);
  document.addEventListener("keydown", event => { if (event.key === "Escape") close(); });
  document.addEventListener("click", event => { if (!box.contains(event.target)) close(); });
  (document.querySelector("main") || document.body).append(box);
})();
