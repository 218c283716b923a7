// Geometry of the panorama, and the numbers of the page. Nothing is drawn here.
// Frame: x right, y down, z forward; pixels are counted in the panorama's own size.
"use strict";

const Geometry = (() => {
  const { PI } = Math;
  const DEGREE = PI / 180;

  // Undo `mtpano_zoo.viewer.page.packed`: rows of `width` numbers of `bits`.
  async function unpacked(text, width, bits) {
    const compressed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    const count = bytes.length / (bits / 8);
    const numbers = new { 8: Uint8Array, 16: Uint16Array, 32: Uint32Array }[bits](count);
    for (let i = 0; i < count; i++) {
      let step = bytes[i];
      for (let part = 1; part < bits / 8; part++) step |= bytes[part * count + i] << (8 * part);
      numbers[i] = i % width ? numbers[i - 1] + step : step; // wraps around, as the differences did
    }
    return numbers;
  }

  // The direction of a pixel's centre.
  function ray([u, v], [width, height]) {
    const lon = ((u + 0.5) / width - 0.5) * 2 * PI;
    const lat = (0.5 - (v + 0.5) / height) * PI;
    return [Math.cos(lat) * Math.sin(lon), -Math.sin(lat), Math.cos(lat) * Math.cos(lon)];
  }

  // The pixel that a direction hits.
  function pixel([x, y, z], [width, height]) {
    const u = Math.floor((Math.atan2(x, z) / (2 * PI) + 0.5) * width);
    const v = Math.floor((0.5 + Math.atan2(y, Math.hypot(x, z)) / PI) * height);
    return [((u % width) + width) % width, Math.min(Math.max(v, 0), height - 1)];
  }

  // Longitude, positive to the right, and latitude, positive up, of a pixel's centre in degrees.
  function angles([u, v], [width, height]) {
    return [((u + 0.5) / width - 0.5) * 360, (0.5 - (v + 0.5) / height) * 180];
  }

  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];

  // Metres from point to point: straight, level, upwards; and along the wall if both points lie on one, within a tenth of
  // the way and 15 degrees, else null.
  function between(a, b, up, normals) {
    const way = [b[0] - a[0], b[1] - a[1], b[2] - a[2]];
    const length = Math.hypot(...way);
    const rise = dot(way, up);
    const found = { length, level: Math.sqrt(Math.max(0, length * length - rise * rise)), rise, wall: null };
    const [one, other] = normals;
    const near = 15 * DEGREE;
    if (one && other && dot(one, other) > Math.cos(near) && normals.every((n) => Math.abs(dot(n, up)) < Math.sin(near))) {
      const along = cross(up, [one[0] + other[0], one[1] + other[1], one[2] + other[2]]);
      const wall = Math.abs(dot(way, along)) / Math.hypot(...along);
      if (found.level ** 2 - wall ** 2 < (0.1 * length) ** 2) found.wall = wall;
    }
    return found;
  }

  // Maps may have fewer rows and columns than the panorama: one in `stride`.
  class Maps {
    constructor(scene) {
      [this.size, this.stride, this.up] = [scene.size, scene.stride, scene.up];
      const first = Math.floor(this.stride / 2);
      this.columns = Math.ceil((this.size[0] - first) / this.stride);
      this.rows = Math.ceil((this.size[1] - first) / this.stride);
      [this.classes, this.none] = [scene.classes, scene.none];
    }

    static async read(scene) {
      const maps = new Maps(scene);
      const { semseg, depth, normals } = scene.maps;
      if (semseg) maps.semseg = await unpacked(semseg, maps.columns, 16);
      if (normals) maps.normals = await unpacked(normals, maps.columns, 8);
      if (depth) {
        const [near, far] = scene.range;
        const steps = await unpacked(depth, maps.columns, 16);
        const span = Math.log(far / near) / 65534;
        maps.depth = Float32Array.from(steps, (step) => (step ? near * Math.exp((step - 1) * span) : 0));
      }
      return maps;
    }

    // Where the maps hold the value of a pixel.
    place([u, v]) {
      const column = Math.min(Math.floor(u / this.stride), this.columns - 1);
      return Math.min(Math.floor(v / this.stride), this.rows - 1) * this.columns + column;
    }

    distance(at) {
      return this.depth ? this.depth[this.place(at)] : 0;
    }

    className(at) {
      if (!this.semseg) return null;
      const number = this.semseg[this.place(at)];
      return number === this.none ? "no label" : this.classes[number];
    }

    normal(at) {
      if (!this.normals) return null;
      const count = this.rows * this.columns;
      const vector = [0, 1, 2].map((axis) => (this.normals[axis * count + this.place(at)] - 128) / 127);
      const length = Math.hypot(...vector);
      return length ? vector.map((value) => value / length) : null;
    }

    // The point of the scene in a pixel; null without a distance. It is on the ray along which its distance was taken.
    point(at) {
      const distance = this.distance(at);
      const [place, first] = [this.place(at), Math.floor(this.stride / 2)];
      const taken = [place % this.columns, Math.floor(place / this.columns)].map((i) => i * this.stride + first);
      return distance ? ray(taken, this.size).map((value) => value * distance) : null;
    }

    // Metres between the points of two pixels, see `between`; null where one has no distance.
    measure(a, b) {
      const [from, to] = [this.point(a), this.point(b)];
      return from && to ? between(from, to, this.up, [this.normal(a), this.normal(b)]) : null;
    }

    // Metres from the floor to the ceiling, each at the median of its points; null if one of them is not seen.
    roomHeight() {
      if (this.height !== undefined) return this.height;
      const known = this.semseg && this.depth;
      const [floor, ceiling] = ["floor", "ceiling"].map((name) => known ? this.level(this.classes.indexOf(name)) : null);
      this.height = floor === null || ceiling === null ? null : ceiling - floor;
      return this.height;
    }

    // How far the points of a class lie above the camera: their median.
    level(number) {
      const levels = [];
      const step = Math.max(1, Math.round(this.rows / 200)) * this.stride;
      for (let v = step >> 1; v < this.size[1]; v += step) {
        for (let u = step >> 1; u < this.size[0]; u += step) {
          const point = this.semseg[this.place([u, v])] === number && this.point([u, v]);
          if (point) levels.push(dot(point, this.up));
        }
      }
      return levels.length ? levels.sort((a, b) => a - b)[levels.length >> 1] : null;
    }

    // Share of the sphere that every class takes, by number, the largest first.
    shares() {
      const sums = new Map();
      let total = 0;
      for (let row = 0; row < this.rows; row++) {
        const weight = Math.sin(((row + 0.5) / this.rows) * PI);
        for (let i = row * this.columns; i < (row + 1) * this.columns; i++) {
          sums.set(this.semseg[i], (sums.get(this.semseg[i]) || 0) + weight);
          total += weight;
        }
      }
      return [...sums].map(([number, sum]) => [number, sum / total]).sort((a, b) => b[1] - a[1]);
    }
  }

  return { DEGREE, Maps, angles, pixel, ray, unpacked };
})();
