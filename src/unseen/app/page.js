// Class and score of the pixel under the pointer, as `view.py` has written them into an image.
(() => {
  const canvases = new WeakMap();

  function pixels(image) {
    if (!canvases.has(image)) {
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      canvases.set(image, context);
    }
    return canvases.get(image);
  }

  document.addEventListener("pointermove", (event) => {
    const view = event.target.closest?.(".unseen-view");
    document.querySelectorAll(".unseen-tip").forEach((tip) => { tip.hidden = true; });
    if (!view) return;
    const painted = view.querySelector(".unseen-painted");
    const told = view.querySelector(".unseen-told");
    const box = painted.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * told.naturalWidth);
    const y = Math.floor(((event.clientY - box.top) / box.height) * told.naturalHeight);
    if (x < 0 || y < 0 || x >= told.naturalWidth || y >= told.naturalHeight) return;
    const [label, score] = pixels(told).getImageData(x, y, 1, 1).data;
    const names = JSON.parse(view.dataset.names);
    const tip = view.querySelector(".unseen-tip");
    tip.textContent = `${names[label] ?? "no class"}  ${(score / 255).toFixed(2)}`;
    tip.style.left = `${event.clientX - box.left}px`;
    tip.style.top = `${event.clientY - box.top}px`;
    tip.hidden = false;
  });
})();
