// The page: what the user does becomes a view, the view is drawn and kept in the address.
"use strict";

const element = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const scene = JSON.parse(element("scene").textContent);
const START = { mode: "panorama", layer: "image", strength: 1, yaw: 0, pitch: 0, fov: 80, position: [0, 0, 0], marks: [] };
const LAYERS = { image: null, classes: "semseg", distance: "depth", normals: "normals" };
const view = structuredClone(START);
let maps = null;
let drawing = null;
let measuring = false;
let waiting = false;
let pointer = null; // where the mouse is, in pixels of the canvas

function problem(error) {
  document.documentElement.dataset.error = String((error && error.message) || error);
  note(`something went wrong: ${document.documentElement.dataset.error}`);
}
window.addEventListener("error", (event) => problem(event.error || event.message));
window.addEventListener("unhandledrejection", (event) => problem(event.reason));

function note(sentence) {
  const item = document.createElement("li");
  item.textContent = sentence;
  element("notes").append(item);
}

// The view in the address: #view=scene&layer=distance&yaw=30&a=100,200&b=300,200

function numbers(text, count) {
  const values = (text || "").split(",").map(Number);
  return text && values.length === count && values.every(Number.isFinite) ? values : null;
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  Object.assign(view, structuredClone(START));
  if (given.get("view") === "scene" && scene.mesh && drawing) view.mode = "scene";
  const layer = given.get("layer");
  if (layer in LAYERS && available(layer)) view.layer = layer;
  const limits = { yaw: [-360, 360], pitch: [-90, 90], fov: [10, 120], strength: [0, 1] };
  for (const [name, [low, high]] of Object.entries(limits)) {
    const value = numbers(given.get(name), 1);
    if (value) view[name] = clamp(value[0], low, high);
  }
  view.position = numbers(given.get("at"), 3) || view.position;
  const [width, height] = scene.size;
  for (const name of ["a", "b"]) {
    const mark = numbers(given.get(name), 2);
    if (mark) view.marks.push([clamp(Math.floor(mark[0]), 0, width - 1), clamp(Math.floor(mark[1]), 0, height - 1)]);
  }
  changed();
}

function address() {
  const short = (value) => Number(value.toFixed(3));
  const parts = { view: view.mode, layer: view.layer, yaw: short(view.yaw), pitch: short(view.pitch), fov: short(view.fov) };
  if (view.layer !== "image") parts.strength = view.strength;
  if (view.mode === "scene") parts.at = view.position.map(short);
  if (view.marks[0]) parts.a = view.marks[0];
  if (view.marks[1]) parts.b = view.marks[1];
  return "#" + Object.entries(parts).map(([name, value]) => `${name}=${value}`).join("&");
}

let keeping = 0;
function keepAddress() {
  clearTimeout(keeping); // browsers refuse a hundred changes in a few seconds
  keeping = setTimeout(() => history.replaceState(null, "", address()), 300);
}

// Layers and their legends

const available = (layer) => layer === "image" || Boolean(maps && maps[LAYERS[layer]]);

function layerColours(layer) {
  const count = maps.rows * maps.columns;
  const pixels = new Uint8Array(4 * count).fill(255);
  const [low, high] = scene.shown || [0, 1];
  for (let i = 0; i < count; i++) {
    let colour = [0, 0, 0];
    if (layer === "classes") colour = scene.palette[maps.semseg[i]] || colour;
    else if (layer === "normals") colour = [maps.normals[i], maps.normals[count + i], maps.normals[2 * count + i]];
    else if (maps.depth[i]) colour = scene.ramp[Math.round(clamp((maps.depth[i] - low) / (high - low), 0, 1) * 255)];
    for (let part = 0; part < 3; part++) pixels[4 * i + part] = colour[part];
  }
  return pixels;
}

function showLegend() {
  const legend = element("legend");
  legend.replaceChildren();
  if (view.layer === "classes") {
    for (const [number, share] of maps.shares()) {
      const item = document.createElement("span");
      const swatch = document.createElement("i");
      swatch.style.background = `rgb(${(scene.palette[number] || [0, 0, 0]).join(",")})`;
      item.append(swatch, `${number === scene.none ? "no label" : scene.classes[number]} ${(100 * share).toFixed(1)} %`);
      legend.append(item);
    }
  } else if (view.layer === "distance") {
    const bar = document.createElement("canvas");
    [bar.width, bar.height] = [256, 1];
    const context = bar.getContext("2d");
    scene.ramp.forEach((colour, i) => {
      context.fillStyle = `rgb(${colour.join(",")})`;
      context.fillRect(i, 0, 1, 1);
    });
    const ends = document.createElement("div");
    ends.className = "ends";
    for (const part of [0, 0.5, 1]) {
      const label = document.createElement("b");
      label.textContent = `${(scene.shown[0] + part * (scene.shown[1] - scene.shown[0])).toFixed(2)} m`;
      ends.append(label);
    }
    legend.append(bar, ends);
  } else if (view.layer === "normals") {
    legend.append("more red: faces right, more green: down, more blue: forward; grey: no value");
  }
}

let shown = "image";
function showLayer() {
  if (view.layer === shown) return;
  shown = view.layer;
  if (drawing) drawing.setLayer(shown === "image" ? null : layerColours(shown), maps.columns, maps.rows);
  showLegend();
}

// Texts

const metres = (value) => `${value.toFixed(3)} m`;
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}°`;

function describe(at) {
  const [lon, lat] = Geometry.angles(at, scene.size);
  const distance = maps.distance(at);
  const normal = maps.normal(at);
  const parts = [maps.className(at), maps.depth && (distance ? metres(distance) : "no distance")];
  parts.push(`${signed(lon)} right, ${signed(lat)} up`);
  if (normal) parts.push(`normal ${normal.map((value) => value.toFixed(2)).join(" ")}`);
  parts.push(`pixel ${at.join(", ")}`);
  return parts.filter(Boolean).join(" · ");
}

function small(text) {
  const part = document.createElement("small");
  part.textContent = text;
  return part;
}

function showMeasure() {
  const output = element("measure");
  output.replaceChildren();
  const [a, b] = view.marks;
  if (a && b) {
    const found = maps.measure(a, b);
    if (!found) return output.append("one of the points has no distance");
    output.append(metres(found.length), small(` level ${metres(found.level)}`));
    output.append(small(`, ${found.rise < 0 ? "down" : "up"} ${metres(Math.abs(found.rise))}`));
    if (found.wall !== null) output.append(small(`, along the wall ${metres(found.wall)}`));
  } else if (measuring) {
    output.append(a ? "click the second point" : "click the first point");
  }
  const height = measuring && maps.roomHeight();
  if (height) output.append(document.createElement("br"), small(`ceiling height ${metres(height)}`));
}

// Drawing

function changed() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    show();
  });
}

function show() {
  showLayer();
  showMeasure();
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.setAttribute("aria-pressed", button.dataset.mode === view.mode);
  }
  for (const button of document.querySelectorAll("[data-layer]")) {
    button.setAttribute("aria-pressed", button.dataset.layer === view.layer);
  }
  element("measuring").setAttribute("aria-pressed", measuring);
  element("canvas").classList.toggle("measuring", measuring);
  element("mix").hidden = view.layer === "image";
  element("strength").value = view.strength;
  if (drawing) {
    drawing.setMarks(view.marks.map((mark) => maps.point(mark)).filter(Boolean));
    drawing.draw(view);
    const at = pointer && !held.size && drawing.pixelAt(...pointer, view, scene.size);
    element("hover").textContent = at ? describe(at) : "";
  }
  document.documentElement.dataset.shown = `${view.mode} ${view.layer}`;
  keepAddress();
}

// Actions

const actions = {
  mode(mode) {
    if (mode === "scene" && !(scene.mesh && drawing)) return;
    view.mode = mode;
  },
  layer(layer) {
    if (available(layer)) view.layer = layer;
  },
  measuring() {
    measuring = !measuring && Boolean(maps.depth);
    if (measuring) view.marks = [];
  },
  clear() {
    measuring = false;
    view.marks = [];
  },
  home() {
    Object.assign(view, { yaw: 0, pitch: 0, fov: START.fov, position: [0, 0, 0] });
  },
  async link() {
    history.replaceState(null, "", address());
    try {
      await navigator.clipboard.writeText(location.href);
      element("link").textContent = "Copied";
      setTimeout(() => (element("link").textContent = "Copy link"), 1500);
    } catch {
      prompt("The link to this view:", location.href); // some browsers forbid the clipboard to local files
    }
  },
  help() {
    element("keys").showModal();
  },
};

function act(name, value) {
  actions[name](value);
  changed();
}

function turn(right, up) {
  view.yaw = ((((view.yaw + right + 180) % 360) + 360) % 360) - 180;
  view.pitch = clamp(view.pitch + up, -90, 90);
  changed();
}

// Walk along the view: metres to the right, up and ahead.
function walk(right, up, ahead) {
  const [yaw, pitch] = [view.yaw * Geometry.DEGREE, view.pitch * Geometry.DEGREE];
  const [sin, cos] = [Math.sin(yaw), Math.cos(yaw)];
  view.position[0] += right * cos + ahead * sin * Math.cos(pitch);
  view.position[1] -= up + ahead * Math.sin(pitch);
  view.position[2] += -right * sin + ahead * cos * Math.cos(pitch);
  changed();
}

function zoom(steps) {
  if (view.mode === "scene") walk(0, 0, 0.15 * steps);
  else view.fov = clamp(view.fov * 0.95 ** steps, 10, 120);
  changed();
}

function click(x, y) {
  pointer = [x, y]; // a finger does not hover
  const at = measuring && drawing && drawing.pixelAt(x, y, view, scene.size);
  if (at) view.marks = view.marks.length < 2 ? [...view.marks, at] : [at];
  changed();
}

// Keys

const held = new Set();
const ONCE = { v: () => act("mode", view.mode === "scene" ? "panorama" : "scene"), m: () => act("measuring") };
Object.assign(ONCE, { escape: () => act("clear"), r: () => act("home"), l: () => act("link"), "?": () => act("help") });
Object.keys(LAYERS).forEach((layer, i) => (ONCE[i + 1] = () => act("layer", layer)));
Object.assign(ONCE, { "+": () => zoom(2), "=": () => zoom(2), "-": () => zoom(-2) });
const TURNS = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, 1], arrowdown: [0, -1] };
const STEPS = { w: [0, 0, 1], s: [0, 0, -1], a: [-1, 0, 0], d: [1, 0, 0], e: [0, 1, 0], q: [0, -1, 0] };

let before = 0;
function move(now) {
  const seconds = Math.min((now - before) / 1000, 0.1);
  before = now;
  for (const key of held) {
    if (TURNS[key]) turn(...TURNS[key].map((value) => value * view.fov * seconds));
    else if (STEPS[key] && view.mode === "scene") {
      walk(...STEPS[key].map((value) => value * seconds * (held.has("shift") ? 4 : 1.3)));
    }
  }
  if (held.size) requestAnimationFrame(move);
}

function connectKeys() {
  window.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    const slides = event.target.tagName === "INPUT" && TURNS[key];
    if (event.ctrlKey || event.metaKey || event.altKey || element("keys").open || slides) return;
    if (ONCE[key] && !event.repeat) ONCE[key]();
    if (!TURNS[key] && !STEPS[key] && key !== "shift") return;
    event.preventDefault();
    if (!held.size) {
      before = performance.now();
      requestAnimationFrame(move);
    }
    held.add(key);
  });
  window.addEventListener("keyup", (event) => {
    held.delete(event.key.toLowerCase());
    changed(); // something else may be below the pointer
  });
  window.addEventListener("blur", () => held.clear());
}

// Mouse and fingers

function connectPointers() {
  const canvas = element("canvas");
  const down = new Map(); // pointers by number, where they are
  let moved = 0;
  const spread = () => {
    const [one, other] = [...down.values()];
    return Math.hypot(one[0] - other[0], one[1] - other[1]);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, [event.offsetX, event.offsetY]);
    moved = down.size > 1 ? Infinity : 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const place = [event.offsetX, event.offsetY];
    const last = down.get(event.pointerId);
    pointer = last ? null : place;
    if (last) {
      const gap = down.size === 2 ? spread() : 0;
      down.set(event.pointerId, place);
      const [right, below] = [place[0] - last[0], place[1] - last[1]];
      moved += Math.hypot(right, below);
      const degrees = view.fov / canvas.clientHeight;
      if (down.size === 1) turn(-right * degrees, below * degrees);
      else if (gap) zoom((spread() - gap) / 8);
    }
    changed();
  });
  const released = (event) => {
    const clicked = down.delete(event.pointerId) && event.type === "pointerup" && moved < 5;
    if (clicked) click(event.offsetX, event.offsetY);
  };
  canvas.addEventListener("pointerup", released);
  canvas.addEventListener("pointercancel", released);
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "mouse") return; // keep describing what a finger tapped
    pointer = null;
    changed();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(-Math.sign(event.deltaY));
  }, { passive: false });
}

function connectControls() {
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.disabled = button.dataset.mode === "scene" && !(scene.mesh && drawing);
    button.addEventListener("click", () => act("mode", button.dataset.mode));
  }
  for (const button of document.querySelectorAll("[data-layer]")) {
    button.disabled = !available(button.dataset.layer);
    button.addEventListener("click", () => act("layer", button.dataset.layer));
  }
  for (const name of ["measuring", "clear", "home", "link", "help"]) {
    element(name).addEventListener("click", () => act(name));
  }
  element("measuring").disabled = !maps.depth;
  element("strength").addEventListener("input", (event) => {
    view.strength = Number(event.target.value);
    changed();
  });
  window.addEventListener("resize", changed);
  window.addEventListener("hashchange", readAddress);
}

async function readMesh() {
  if (!scene.mesh) return null;
  const read = async (name) => {
    const values = await Geometry.unpacked(scene.mesh[name].data, scene.mesh[name].width, 32);
    return name === "triangles" ? values : new Float32Array(values.buffer);
  };
  const [positions, coordinates, triangles] = await Promise.all(["positions", "coordinates", "triangles"].map(read));
  return { positions, coordinates, triangles };
}

async function start() {
  scene.notes.forEach(note);
  maps = await Geometry.Maps.read(scene);
  const image = new Image();
  image.src = scene.image;
  await image.decode();
  const mesh = await readMesh();
  try {
    drawing = new Drawing(element("canvas"), image, mesh);
  } catch (error) {
    note(`this browser cannot draw the page: it has no WebGL (${error.message})`);
  }
  connectControls();
  connectKeys();
  connectPointers();
  readAddress();
  show();
  document.documentElement.dataset.ready = "true";
}

start();
