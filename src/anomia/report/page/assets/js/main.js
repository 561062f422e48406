// Reads the page's embedded data and fills the page from the top.

const report = JSON.parse($("report-data").textContent);
let explorer = null;

function printing() {
  const folded = [...document.querySelectorAll("details.how:not([open]), .verdict details:not([open])")];
  folded.forEach((node) => { node.open = true; });
  addEventListener("afterprint", () => folded.forEach((node) => { node.open = false; }), { once: true });
}

startTheme();
fillVerdicts(report, (run, arm) => explorer?.showFate(report.runs.indexOf(run), arm.name, FATES.indexOf("choice_only")));
fillFacts(report);
fillTables(report);
fillLocated(report);
const figureViews = fillFigures(report);
fillRest(report);
finishSections();
addEventListener("beforeprint", printing);

startExplorer(report).then(
  (started) => { explorer = started; },
  (error) => { $("explorer").append(h("p", { class: "message" }, `The items could not be read: ${error.message}`)); },
).finally(() => {
  document.documentElement.dataset.explorer = "ready";
  drawAll(figureViews);
});
