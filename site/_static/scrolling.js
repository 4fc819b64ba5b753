// What is wider than the page scrolls by itself. The keyboard reaches it, as Tab stops there.
function reachWideThings() {
  for (const item of document.querySelectorAll("article pre, .table-wrapper, div.math, .cell_output table, .cell_output .output")) {
    if (item.scrollWidth > item.clientWidth) item.tabIndex = 0;
    else item.removeAttribute("tabindex");
  }
}
window.addEventListener("load", reachWideThings);
window.addEventListener("resize", reachWideThings);
for (const folded of document.querySelectorAll("details")) folded.addEventListener("toggle", reachWideThings);
