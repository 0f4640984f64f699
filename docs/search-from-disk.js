// Browsers start no worker for a page that was opened from disk: there the search runs in a hidden frame of the page.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const code = frame.contentDocument.createElement("script");
      this.ready = new Promise((loaded) => code.addEventListener("load", loaded));
      code.src = address;
      frame.contentDocument.body.append(code);
    }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
