// Runs before the page is drawn, so that it never flashes in the wrong colours.
(() => {
  try {
    const chosen = localStorage.getItem("theme");
    if (chosen) document.documentElement.dataset.theme = chosen;
  } catch {} // a browser that keeps nothing
})();
