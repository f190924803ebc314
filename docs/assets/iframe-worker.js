// Search runs in a worker, which browsers refuse to a page that was opened from a disk: there it runs in a hidden frame.
if (location.protocol === "file:") {
  const inside = `
    postMessage = (data) => parent.postMessage(data, "*");
    importScripts = async (...urls) => {
      for (const url of urls)
        await new Promise((done) => {
          const script = document.createElement("script");
          script.onload = script.onerror = done;
          script.src = url;
          document.body.appendChild(script);
        });
    };`;
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      this.window = this.frame.contentWindow;
      this.hear = (event) => {
        if (event.source === this.window) this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      };
      addEventListener("message", this.hear);
      const page = this.window.document;
      page.open();
      page.write(`<!doctype html><body><script>${inside}</script><script src="${url}"></script></body>`);
      page.close();
      this.ready = new Promise((done) => (this.window.onload = done));
    }
    postMessage(data) {
      this.ready.then(() => this.window.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      removeEventListener("message", this.hear);
      this.frame.remove();
    }
  };
}
