// The page's script: draws the charts, sorts and filters tables, lists all runs. Text is inserted as text, never as HTML.
"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const PHONE = 600;  // pixels, as in report.css

  function fitLayout(layout, width) {
    const narrow = width < PHONE;
    const below = { orientation: "h", x: 0, y: -0.2, yanchor: "top", font: { size: 11 } };
    const legend = { ...layout.legend, ...(narrow ? below : { x: 1.02, y: 1 }) };
    return { ...layout, legend, dragmode: narrow ? false : "zoom", autosize: true };
  }

  function drawCharts() {
    const charts = read("charts");
    document.documentElement.classList.add("js");
    const boxes = [...document.querySelectorAll(".live")];
    const options = { responsive: true, displayModeBar: false, displaylogo: false };
    const drawn = boxes.map((box, i) => Plotly.newPlot(box, charts[i].data, fitLayout(charts[i].layout, box.clientWidth), options));
    let width = window.innerWidth;
    window.addEventListener("resize", () => {
      if ((width < PHONE) !== (window.innerWidth < PHONE)) {
        boxes.forEach((box, i) => Plotly.relayout(box, fitLayout(charts[i].layout, box.clientWidth)));
      }
      width = window.innerWidth;
    });
    return Promise.all(drawn);
  }

  const valueOf = (cell) => {
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number(text);
    return text !== "" && Number.isFinite(number) ? number : text;
  };

  function compare(a, b) {
    if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
    return typeof a === "number" ? -1 : 1;  // text and empty cells come after numbers
  }

  function makeSortable(table) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].map((row) => [valueOf(row.cells[column]), row]);
        rows.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
        body.append(...rows.map(([, row]) => row));
      });
    });
  }

  function makeFilterable(table, tools) {
    const input = document.createElement("input");
    input.type = "search";
    input.placeholder = "filter rows";
    input.setAttribute("aria-label", "filter rows");
    const counter = document.createElement("span");
    counter.className = "small";
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        count += row.hidden ? 0 : 1;
      }
      counter.textContent = words.length ? `${count} of ${table.tBodies[0].rows.length}` : "";
    });
    tools.append(input, counter);
  }

  function appendElement(name, text, parent) {
    const created = document.createElement(name);
    created.textContent = text;
    parent.append(created);
    return created;
  }

  function listRuns(details) {
    const { columns, rows } = read("runs");
    const table = details.querySelector("table");
    const head = table.createTHead().insertRow();
    columns.forEach((name) => appendElement("th", name, head).scope = "col");
    const body = table.createTBody();
    for (const values of rows) {
      const row = body.insertRow();
      values.forEach(([text, value]) => { appendElement("td", text, row).dataset.value = value; });
    }
    makeSortable(table);
    makeFilterable(table, details.querySelector(".tools"));
  }

  function prepareTables() {
    document.querySelectorAll("table.sortable").forEach((table) => {
      makeSortable(table);
      makeFilterable(table, table.closest("section, .block").querySelector(".tools"));
    });
    const details = document.getElementById("every-run");
    details?.addEventListener("toggle", () => listRuns(details), { once: true });
  }

  drawCharts().then(() => { document.documentElement.dataset.drawn = "yes"; });
  prepareTables();
})();
