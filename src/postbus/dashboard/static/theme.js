// Before anything is drawn, so that nobody sees the other theme first.
"use strict";
(() => {
  const theme = localStorage.getItem("postbus-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
