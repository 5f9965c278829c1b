// The table at the top of the errata as a filter: a number shows the entries that it counts, and no others.
(function () {
  "use strict";
  const status = document.querySelector(".errata-shown"), links = document.querySelectorAll(".errata-filter");
  const entries = [...document.querySelectorAll(".errata-entry")];
  if (!status || !links.length) return;
  const groups = [...document.querySelectorAll(".bd-article section, .bd-article details")]
    .filter(group => group.querySelector(".errata-entry"));
  const opened = new Map(groups.filter(group => group.open !== undefined).map(group => [group, group.open]));

  function show(chapter, weight, name) {
    const whole = !chapter && !weight;
    for (const entry of entries)
      entry.hidden = !(entry.classList.contains("weight-" + weight) || !weight) || !(entry.id.split("-")[1] === chapter || !chapter);
    for (const group of groups) {
      group.hidden = !group.querySelector(".errata-entry:not([hidden])");
      if (opened.has(group)) group.open = whole ? opened.get(group) : true;
    }
    for (const link of links) {
      if (link.dataset.chapter === chapter && link.dataset.weight === weight) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    const shown = entries.filter(entry => !entry.hidden).length;
    status.textContent = whole ? `All ${shown} entries.` : `${shown} of ${entries.length} entries: ${name}. `;
    if (whole) return;
    const all = document.createElement("button");
    all.type = "button";
    all.className = "code-switch";
    all.textContent = "Show all entries";
    all.addEventListener("click", () => { show("", "", ""); links[links.length - 1].focus(); });
    status.append(all);
  }
  links.forEach(link => link.addEventListener("click", event => {
    event.preventDefault();
    show(link.dataset.chapter, link.dataset.weight, link.getAttribute("aria-label").replace(/: \d+$/, ""));
    status.scrollIntoView();
  }));
  // A link to an entry shows it, whatever is chosen, and also where it is folded away.
  function reveal() {
    const entry = location.hash.startsWith("#erratum-") && document.getElementById(location.hash.slice(1));
    if (!entry) return;
    if (entry.hidden) show("", "", "");
    const folded = entry.closest("details");
    if (folded && !folded.open) { folded.open = true; entry.scrollIntoView(); }
  }
  window.addEventListener("hashchange", reveal);
  reveal();
})();
