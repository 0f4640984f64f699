"use strict";
document.documentElement.classList.add("js");
addEventListener("DOMContentLoaded", () => {
  const find = (id) => document.getElementById(id);
  const slider = find("time"), play = find("play"), stored = find("stored"), cursor = find("cursor");
  const times = slider ? JSON.parse(slider.dataset.times) : [];
  let clock = 0;

  function show() {
    const t = Number(slider.value), end = times.length - 1;
    stored.style.setProperty("--t", t);
    stored.classList.toggle("before", t < end);
    slider.setAttribute("aria-valuetext", times[t].words);
    find("when").textContent = times[t].words;
    if (cursor) {
      cursor.toggleAttribute("hidden", times[t].x === null);
      cursor.setAttribute("x1", times[t].x ?? 0);
      cursor.setAttribute("x2", times[t].x ?? 0);
    }
  }

  function stop() {
    clearInterval(clock);
    clock = 0;
    play.textContent = "Play";
  }

  if (slider) {
    slider.addEventListener("input", () => { stop(); show(); });
    play.addEventListener("click", () => {
      if (clock) return stop();
      play.textContent = "Stop";
      slider.value = 0;
      show();
      clock = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        show();
        if (Number(slider.value) === times.length - 1) stop();
      }, 450);
    });
    show();
  }
  const large = find("large");
  function enlarge(lines) {
    const figure = lines.closest("figure"), gallery = lines.closest(".gallery").cloneNode(false);
    gallery.removeAttribute("id");
    const view = lines.closest(".gallery");
    gallery.style.setProperty("--wide", Math.ceil(2.5 * view.style.getPropertyValue("--wide")));
    gallery.style.setProperty("--narrow", Math.ceil(2 * view.style.getPropertyValue("--narrow")));
    const copy = figure.cloneNode(true);
    for (const [k, cell] of [...copy.querySelectorAll("i")].entries()) {
      cell.style.backgroundImage = getComputedStyle(figure.querySelectorAll("i")[k]).backgroundImage;
    }
    const button = copy.querySelector(".lines");
    button.removeAttribute("tabindex");
    button.removeAttribute("role");
    gallery.append(copy);
    large.replaceChildren(gallery);
    large.showModal();
  }
  for (const lines of document.querySelectorAll(".gallery .lines")) {
    lines.addEventListener("click", () => enlarge(lines));
    lines.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); enlarge(lines); }
    });
  }
  large.addEventListener("click", () => large.close());
  const choices = [...document.querySelectorAll("input[name=view]")];
  function choose() {
    for (const choice of choices) find(choice.value).hidden = !choice.checked;
    const first = !choices.length || choices[0].checked;
    if (slider) {
      if (!first) stop();
      find("through").hidden = !first;
    }
  }
  for (const choice of choices) choice.addEventListener("change", choose);
  choose();
});
