// What is seen: the panorama around the camera or the scene as a mesh, in the colours of a layer, and what is measured.
"use strict";

// Ours is x right, y down, z forward; three.js has y up and looks along -z.
const turned = ([x, y, z]) => [x, -y, -z];

const SPHERE_VERTEX = `
  varying vec3 direction;
  void main() {
    direction = vec3(position.x, -position.y, -position.z);
    gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
  }`;
const MESH_VERTEX = `
  varying vec2 place;
  void main() {
    place = uv;
    gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
  }`;
const colours = (place) => `
  uniform sampler2D image;
  uniform sampler2D layer;
  uniform float strength;
  varying vec3 direction;
  varying vec2 place;
  void main() {
    vec2 at = ${place};
    gl_FragColor = vec4(mix(texture2D(image, at).rgb, texture2D(layer, at).rgb, strength), 1.0);
  }`;
// Every pixel is looked up by its own direction, so that the picture is exact however coarse the sphere is.
const AROUND = "vec2(atan(direction.x, direction.z) / 6.283185307 + 0.5, "
  + "0.5 + atan(direction.y, length(direction.xz)) / 3.141592654)";

const PARTS = 64; // of a line

class Drawing {
  // Raises an error if the browser has no WebGL.
  constructor(canvas, image, mesh) {
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true });
    this.renderer.outputColorSpace = THREE.LinearSRGBColorSpace; // colours go through as they are
    this.renderer.setClearColor(0x8a9099); // drawn darker; holes of the scene: black would look like a surface
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(80, 1, 0.02, 20000);
    this.camera.rotation.order = "YXZ";
    this.raycaster = new THREE.Raycaster();
    const picture = this.texture(new THREE.Texture(image), THREE.LinearFilter);
    this.uniforms = { image: { value: picture }, layer: { value: picture }, strength: { value: 0 } };
    this.sphere = new THREE.Mesh(
      new THREE.SphereGeometry(100, 32, 16),
      this.material(SPHERE_VERTEX, colours(AROUND).replace("varying vec2 place;", ""), THREE.BackSide),
    );
    this.sphere.material.depthWrite = false;
    this.sphere.renderOrder = -1;
    this.scene.add(this.sphere);
    if (mesh) {
      const source = colours("place").replace("varying vec3 direction;", "");
      this.mesh = new THREE.Mesh(Drawing.surface(mesh), this.material(MESH_VERTEX, source, THREE.FrontSide));
      this.scene.add(this.mesh);
    }
    this.addMarks();
  }

  texture(texture, filter) {
    texture.flipY = false; // the first row is at the top
    texture.generateMipmaps = false;
    texture.minFilter = texture.magFilter = filter;
    texture.wrapS = THREE.RepeatWrapping;
    texture.needsUpdate = true;
    return texture;
  }

  material(vertexShader, fragmentShader, side) {
    return new THREE.ShaderMaterial({ uniforms: this.uniforms, vertexShader, fragmentShader, side });
  }

  static surface({ positions, coordinates, triangles }) {
    const count = positions.length / 3;
    const corners = new Float32Array(3 * count);
    const places = new Float32Array(2 * count);
    for (let i = 0; i < count; i++) {
      corners.set(turned([positions[i], positions[count + i], positions[2 * count + i]]), 3 * i);
      places.set([coordinates[i], coordinates[count + i]], 2 * i);
    }
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(corners, 3));
    geometry.setAttribute("uv", new THREE.BufferAttribute(places, 2));
    geometry.setIndex(new THREE.BufferAttribute(triangles, 1));
    return geometry;
  }

  addMarks() {
    const of = (count) => {
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(3 * count), 3));
      return geometry;
    };
    const always = { color: 0xffe14d, depthTest: false, transparent: true };
    this.line = new THREE.Line(of(PARTS + 1), new THREE.LineBasicMaterial(always));
    this.ends = new THREE.Points(of(2), new THREE.PointsMaterial({ ...always, size: 9, sizeAttenuation: false }));
    for (const mark of [this.line, this.ends]) {
      mark.frustumCulled = false;
      mark.renderOrder = 1;
      this.scene.add(mark);
    }
    this.setMarks([]);
  }

  // Mark one point, or two and the line between them.
  setMarks(points) {
    const ends = points.map(turned);
    const parts = [];
    // Some drivers draw nothing of a line with an end behind the camera, so it is drawn in parts.
    for (let i = 0; i <= PARTS && ends.length === 2; i++) {
      parts.push([0, 1, 2].map((axis) => ends[0][axis] + (i / PARTS) * (ends[1][axis] - ends[0][axis])));
    }
    for (const [mark, places] of [[this.ends, ends], [this.line, parts]]) {
      const { position } = mark.geometry.attributes;
      position.array.set(places.flat());
      position.needsUpdate = true;
      mark.geometry.setDrawRange(0, places.length);
    }
  }

  // Colours (rows x columns x 4) of a layer, or null for the image itself.
  setLayer(pixels, columns, rows) {
    const { image, layer } = this.uniforms;
    if (layer.value !== image.value) layer.value.dispose();
    layer.value = pixels
      ? this.texture(new THREE.DataTexture(pixels, columns, rows), THREE.NearestFilter)
      : image.value;
  }

  draw(view) {
    const { clientWidth: width, clientHeight: height } = this.renderer.domElement;
    const size = [width, height, Math.min(window.devicePixelRatio, 2)];
    if (String(size) !== this.size) {
      this.size = String(size);
      this.renderer.setPixelRatio(size[2]);
      this.renderer.setSize(width, height, false);
    }
    const inside = view.mode === "panorama";
    this.sphere.visible = inside;
    if (this.mesh) this.mesh.visible = !inside;
    this.camera.aspect = width / Math.max(height, 1);
    this.camera.fov = view.fov;
    this.camera.updateProjectionMatrix();
    this.camera.rotation.y = -view.yaw * Geometry.DEGREE;
    this.camera.rotation.x = view.pitch * Geometry.DEGREE;
    this.camera.position.set(...(inside ? [0, 0, 0] : turned(view.position)));
    this.uniforms.strength.value = view.layer === "image" ? 0 : view.strength;
    this.renderer.render(this.scene, this.camera);
  }

  // The pixel of the panorama at a place of the canvas; null outside the mesh.
  pixelAt(x, y, view, size) {
    const { clientWidth: width, clientHeight: height } = this.renderer.domElement;
    this.camera.updateMatrixWorld();
    this.raycaster.setFromCamera(new THREE.Vector2((2 * x) / width - 1, 1 - (2 * y) / height), this.camera);
    if (view.mode === "panorama") return Geometry.pixel(turned(this.raycaster.ray.direction.toArray()), size);
    const [hit] = this.mesh ? this.raycaster.intersectObject(this.mesh) : [];
    if (!hit) return null;
    const column = Math.floor(hit.uv.x * size[0]) % size[0]; // beyond the seam, uv.x exceeds 1
    return [column, Math.min(Math.floor(hit.uv.y * size[1]), size[1] - 1)];
  }
}
