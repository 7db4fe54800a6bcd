// SPDX-License-Identifier: Apache-2.0
// Runs netpol-analyze, compiled for WASI preview 1, on what is in the page.
"use strict";

const BAD_DESCRIPTOR = 8;
const NOT_SUPPORTED = 52;
const CHARACTER_DEVICE = 2;

class Exit extends Error {
  constructor(status) {
    super(`exit ${status}`);
    this.status = status;
  }
}

// One run of the program: arguments and standard input in, what it wrote and its exit status out. It sees
// three descriptors, a clock and random bytes; whatever else it asks for is not supported.
function run(module, args, input) {
  const encoder = new TextEncoder();
  const stdin = encoder.encode(input);
  const written = { 1: [], 2: [] };
  let read = 0;
  let memory;
  const view = () => new DataView(memory.buffer);
  const bytes = (at, length) => new Uint8Array(memory.buffer, at, length);

  const strings = (list) => list.map((text) => encoder.encode(text + "\0"));
  const sizes = (list) => (count, length) => {
    view().setUint32(count, list.length, true);
    view().setUint32(length, list.reduce((sum, item) => sum + item.length, 0), true);
    return 0;
  };
  const copy = (list) => (pointers, buffer) => {
    for (const item of list) {
      view().setUint32(pointers, buffer, true);
      bytes(buffer, item.length).set(item);
      pointers += 4;
      buffer += item.length;
    }
    return 0;
  };
  // Calls `each` with the slices of an array of (address, length), until it returns fewer bytes than it got.
  const vectors = (at, count, each) => {
    let total = 0;
    for (let i = 0; i < count; i += 1) {
      const slice = bytes(view().getUint32(at + 8 * i, true), view().getUint32(at + 8 * i + 4, true));
      const moved = each(slice);
      total += moved;
      if (moved < slice.length) break;
    }
    return total;
  };

  const argv = strings(["netpol-analyze", ...args]);
  const environment = strings(["NO_COLOR=1"]);
  const calls = {
    args_sizes_get: sizes(argv),
    args_get: copy(argv),
    environ_sizes_get: sizes(environment),
    environ_get: copy(environment),
    fd_read(descriptor, at, count, result) {
      if (descriptor !== 0) return BAD_DESCRIPTOR;
      const total = vectors(at, count, (slice) => {
        const part = stdin.subarray(read, read + slice.length);
        slice.set(part);
        read += part.length;
        return part.length;
      });
      view().setUint32(result, total, true);
      return 0;
    },
    fd_write(descriptor, at, count, result) {
      if (!(descriptor in written)) return BAD_DESCRIPTOR;
      const total = vectors(at, count, (slice) => {
        written[descriptor].push(slice.slice());
        return slice.length;
      });
      view().setUint32(result, total, true);
      return 0;
    },
    fd_fdstat_get(descriptor, result) {
      if (descriptor > 2) return BAD_DESCRIPTOR;
      bytes(result, 24).fill(0);
      view().setUint8(result, CHARACTER_DEVICE);
      return 0;
    },
    fd_prestat_get: () => BAD_DESCRIPTOR,
    fd_close: () => 0,
    clock_time_get(_clock, _precision, result) {
      view().setBigUint64(result, BigInt(Date.now()) * 1000000n, true);
      return 0;
    },
    random_get(at, length) {
      crypto.getRandomValues(bytes(at, length));
      return 0;
    },
    proc_exit(status) {
      throw new Exit(status);
    },
  };
  const imports = {};
  for (const { module: from, name } of WebAssembly.Module.imports(module)) {
    imports[from] ??= {};
    imports[from][name] = calls[name] ?? (() => NOT_SUPPORTED);
  }
  const instance = new WebAssembly.Instance(module, imports);
  memory = instance.exports.memory;
  let status = 0;
  try {
    instance.exports._start();
  } catch (error) {
    if (!(error instanceof Exit)) throw error;
    status = error.status;
  }
  const text = (parts) => parts.map((part) => new TextDecoder().decode(part, { stream: false })).join("");
  return { status, answer: text(joined(written[1])), remarks: text(joined(written[2])) };
}

// One array, so that a character split between two writes stays whole.
function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return [whole];
}

// The program is in the page: gzip in base64.
async function compile() {
  const packed = Uint8Array.from(atob(element("program").textContent.trim()), (char) => char.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return WebAssembly.compile(await new Response(stream).arrayBuffer());
}

const element = (id) => document.getElementById(id);

const STATUS = [
  "answered",
  "answered: what was asked does not hold",
  "not answered: the question or the input has mistakes",
  "incomplete: facts are missing or something was not understood",
  "internal error",
];

function show(title, answer, remarks) {
  element("status").textContent = title;
  element("answer").textContent = answer;
  element("remarks").textContent = remarks;
  element("remarks").hidden = element("remarks-title").hidden = remarks === "";
}

function ask(module) {
  const command = element("command").value;
  const value = (id) => element(id).value.trim();
  const takes = (id) => element(id).closest("label").dataset.for.split(" ").includes(command);
  const args = ["-f", "-", command];
  if (takes("src")) args.push(value("src"), value("dst"));
  if (takes("port") && value("port") !== "") args.push("--port", value("port"));
  try {
    const { status, answer, remarks } = run(module, args, element("manifests").value);
    show(STATUS[status] ?? `exit status ${status}`, answer, remarks);
  } catch (error) {
    show("internal error", "", String(error));
  }
}

function fit() {
  const command = element("command").value;
  for (const label of document.querySelectorAll("label[data-for]")) {
    label.hidden = !label.dataset.for.split(" ").includes(command);
  }
}

function acceptFiles(area) {
  area.addEventListener("dragover", (event) => {
    event.preventDefault();
    area.classList.add("over");
  });
  area.addEventListener("dragleave", () => area.classList.remove("over"));
  area.addEventListener("drop", async (event) => {
    event.preventDefault();
    area.classList.remove("over");
    const files = [...event.dataTransfer.files].sort((a, b) => (a.name < b.name ? -1 : 1));
    const texts = await Promise.all(files.map(async (file) => `# ${file.name}\n${await file.text()}`));
    area.value = texts.join("\n---\n");
  });
}

async function start() {
  element("manifests").value = element("example").textContent.trim() + "\n";
  acceptFiles(element("manifests"));
  element("command").addEventListener("change", fit);
  fit();
  const module = await compile();
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask(module);
  });
  element("ask").disabled = false;
  ask(module);
}

start().catch((error) => show("this browser cannot run the analyzer", "", String(error)));
