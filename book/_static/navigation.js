// On a phone the drawer with the chapters opens at the chapter that is being read. (The theme scrolls there when the
// page loads, while the drawer is still hidden and cannot be scrolled.)
(function () {
  "use strict";
  document.addEventListener("DOMContentLoaded", function () {
    var bar = document.querySelector(".bd-sidebar-primary");
    if (!bar) { return; }
    document.querySelectorAll(".primary-toggle").forEach(function (button) {
      button.addEventListener("click", function () {
        setTimeout(function () {
          var entries = bar.querySelectorAll("li.current > a"), here = entries[entries.length - 1];
          if (here) { bar.scrollTop += here.getBoundingClientRect().top - window.innerHeight / 3; }
        }, 300);
      });
    });
  });
})();
