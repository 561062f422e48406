// Figures by Vega with interpreted expressions, because the page's policy forbids compiling them.

let vegaReady = null;
let specs = null;

// Vega's code is embedded compressed; the policy allows the script by its hash.
function loadVega() {
  vegaReady ??= unpacked("vega-code").then((response) => response.text()).then((code) => {
    const script = h("script");
    script.textContent = code;
    document.head.append(script);
    if (!globalThis.vegaEmbed) throw new Error("Vega did not start");
  });
  return vegaReady;
}

// On a narrow page the plot shrinks, but labels and the figures next to it keep their size.
const NARROWEST = 110;
async function fit(view, place) {
  // Panels and multi-part figures have one width signal per kind; all have the same value.
  const inner = Object.keys(view.getState().signals).filter((name) => name.endsWith("child_width"));
  const names = inner.length ? inner : ["width"];
  place.dataset.natural ??= view.signal(names[0]);
  // Two passes: a new width can change the labels at the ends of the axis.
  for (let pass = 0; pass < 2; pass += 1) {
    const now = view.signal(names[0]);
    const words = Number(place.querySelector("svg").getAttribute("width")) - now;
    const left = Math.floor(place.parentElement.clientWidth - words);
    const width = Math.min(Number(place.dataset.natural), Math.max(NARROWEST, left));
    if (width === now) return;
    names.forEach((name) => view.signal(name, width));
    await view.resize().runAsync();
  }
}

async function draw(place, figure) {
  await loadVega();
  specs ??= (await unpacked("figure-specs")).json();
  const spec = (await specs)[figure.name][currentTheme()];
  const result = await globalThis.vegaEmbed(place, structuredClone(spec), {
    mode: "vega", ast: true, actions: false, logLevel: 1, renderer: "svg", defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
    loader: { load: () => Promise.reject(new Error("no network")) },
  });
  await fit(result.view, place);
  // One image with one description, instead of hundreds of marks that a screen reader would read one by one.
  const image = place.querySelector("svg");
  image?.setAttribute("role", "img");
  image?.setAttribute("aria-label", figure.alt);
  place.querySelectorAll(".vega-bindings input, .vega-bindings select").forEach((input) => {
    const name = input.closest(".vega-bind")?.querySelector(".vega-bind-name")?.textContent;
    if (name && !input.labels?.length) input.setAttribute("aria-label", name);
  });
  return result;
}

function figureView(figure) {
  const place = h("div", { class: "plot-inner" });
  const plot = h("div", { class: "plot" }, place);
  let drawn = null;
  let queue = Promise.resolve();
  const redraw = () => {
    queue = queue.then(async () => {
      drawn?.finalize();
      drawn = await draw(place, figure);
      plot.dataset.drawn = currentTheme();
    }).catch((error) => {
      plot.replaceChildren(h("p", { class: "message" }, `This figure could not be drawn (${error.message}); its numbers are below.`));
    });
    return queue;
  };
  let width = 0;
  new ResizeObserver(() => {
    if (!drawn || plot.clientWidth === width) return;
    width = plot.clientWidth;
    queue = queue.then(() => fit(drawn.view, place));
  }).observe(plot);
  const node = h(
    "figure", { id: `figure-${figure.name}` }, h("h3", {}, visible(figure.title)), plot,
    h("figcaption", {}, visible(figure.caption)),
    h("details", {}, h("summary", {}, "The figure’s data"), dataTable(figure.table)),
  );
  return { node, redraw };
}

// One at a time, so that the page stays responsive; all of them again when the theme changes.
async function drawAll(views) {
  for (const view of views) {
    await view.redraw();
    await new Promise((resolve) => { setTimeout(resolve); });
  }
  document.documentElement.dataset.figures = "drawn";
}
