// Keeps a page fresh, shows how an upload goes and what a prompt would ask, asks before what cannot be undone. Pages work without it.

const RETRY_MS = 3000;
const PREVIEW_MS = 300;
const said = document.getElementById("connection");

function put(id, html) {
  const place = document.getElementById(id);
  if (!place || place.dataset.shown === html) return;
  const focused = place.contains(document.activeElement) ? document.activeElement.id : "";
  const scrolled = [...place.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
  // The server has escaped everything that is not its own.
  place.innerHTML = html;
  place.dataset.shown = html;
  place.querySelectorAll(".scroll").forEach((each, number) => { each.scrollLeft = scrolled[number] ?? 0; });
  if (focused) document.getElementById(focused)?.focus();
}

function follow(address) {
  let stream = null;
  const close = () => { stream?.close(); stream = null; };
  const open = () => {
    if (stream || document.hidden) return;
    stream = new EventSource(address);
    stream.onmessage = (event) => {
      said.textContent = "";
      Object.entries(JSON.parse(event.data)).forEach(([id, html]) => put(id, html));
    };
    stream.onerror = () => {
      said.textContent = "No connection; trying again.";
      close();
      setTimeout(open, RETRY_MS);
    };
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
}

function upload(form) {
  const bar = form.querySelector("progress");
  const state = form.querySelector("[role=status]");
  const chooser = form.querySelector("input[type=file]");
  const button = form.querySelector("button");
  const send = () => {
    const request = new XMLHttpRequest();
    bar.hidden = false;
    button.disabled = true;
    request.upload.onprogress = (event) => {
      if (!event.lengthComputable) return;
      bar.value = event.loaded / event.total;
      state.textContent = event.loaded < event.total ? `${Math.round(100 * bar.value)} % sent` : "Checking each line…";
    };
    request.onloadend = () => {
      button.disabled = false;
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* a proxy's page, or nothing */ }
      if (answer.path) location.assign(answer.path);
      else state.textContent = answer.error || "The upload broke off. Send it again.";
    };
    request.open("POST", form.action);
    request.setRequestHeader("Accept", "application/json");
    request.send(new FormData(form));
  };
  form.addEventListener("submit", (event) => { event.preventDefault(); send(); });
  chooser.addEventListener("change", () => chooser.files.length && send());
  ["dragover", "dragleave", "drop"].forEach((kind) => form.addEventListener(kind, (event) => {
    event.preventDefault();
    form.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      chooser.files = event.dataTransfer.files;
      send();
    }
  }));
}

function insert(field, text) {
  field.focus();
  field.setRangeText(text, field.selectionStart, field.selectionEnd, "end");
  field.dispatchEvent(new Event("input", {bubbles: true}));
}

function preview(form) {
  const state = form.querySelector("[role=status]");
  const prompt = form.querySelector("#prompt");
  let timer = 0;
  let asking = null;
  const ask = async () => {
    asking?.abort();
    const own = asking = new AbortController();
    try {
      const answer = await fetch(form.dataset.preview, {
        method: "POST",
        headers: {Accept: "application/json"},
        body: new URLSearchParams(new FormData(form)),
        signal: own.signal,
      });
      const told = await answer.json();
      state.textContent = told.error || told.state;
      if (told.html !== undefined) put("preview", told.html);
    } catch {
      if (!own.signal.aborted) state.textContent = "No connection; change something to try again.";
    }
  };
  const askSoon = () => {
    clearTimeout(timer);
    if (prompt.value.trim()) timer = setTimeout(ask, PREVIEW_MS);
  };
  form.addEventListener("input", askSoon);
  form.addEventListener("submit", () => { state.textContent = "Making the requests…"; });
  form.querySelector("[data-plain]").hidden = true;
  document.querySelectorAll("[data-insert]").forEach((place) => {
    const text = place.textContent;
    const button = document.createElement("button");
    Object.assign(button, {type: "button", className: "quiet", textContent: text});
    button.setAttribute("aria-label", `Put ${text} into the prompt`);
    button.addEventListener("click", () => insert(prompt, text));
    place.replaceWith(button);
  });
  askSoon();
}

function offerCopies() {
  document.querySelectorAll("[data-copy]").forEach((button) => {
    if (!navigator.clipboard) return;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  });
}

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
if (document.body.dataset.live) follow(document.body.dataset.live);
document.querySelectorAll("form[data-upload]").forEach(upload);
document.querySelectorAll("form[data-preview]").forEach(preview);
offerCopies();
