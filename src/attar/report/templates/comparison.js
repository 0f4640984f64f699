"use strict";
document.documentElement.classList.add("js");
addEventListener("DOMContentLoaded", () => {
  const tip = document.getElementById("tip"), points = [...document.querySelectorAll(".point")];

  function show(point) {
    tip.textContent = point.getAttribute("aria-label");
    tip.hidden = false;
    const box = point.getBoundingClientRect(), right = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${scrollX + Math.max(8, Math.min(box.right + 6, right))}px`;
    tip.style.top = `${scrollY + box.bottom + 6}px`;
  }

  for (const point of points) {
    for (const event of ["mouseenter", "focus"]) point.addEventListener(event, () => show(point));
    for (const event of ["mouseleave", "blur"]) point.addEventListener(event, () => { tip.hidden = true; });
  }
  addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") === "false";
      button.setAttribute("aria-pressed", shown);
      for (const part of document.querySelectorAll(`[data-entry="${button.dataset.of}"]`)) part.toggleAttribute("hidden", !shown);
    });
  }
});
