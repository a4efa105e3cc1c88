"use strict";
// The page shows the text of the row that was clicked last, and "(null)" before: it opens on the first row of the table.
new MutationObserver((_, watching) => {
  const cell = document.querySelector("tbody tr td");
  if (!cell) return;
  watching.disconnect();
  cell.click();
}).observe(document, { childList: true, subtree: true });
