// The parts of three.js that the page uses. three.min.js is made of them, from the npm packages three 0.187.0 and
// esbuild 0.28.2, by
//   esbuild three.entry.js --bundle --minify --format=iife --global-name=THREE --legal-comments=inline --outfile=three.min.js
export { BufferAttribute, BufferGeometry, DataTexture, DoubleSide, BackSide, FrontSide, Line, LineBasicMaterial, LinearFilter, LinearSRGBColorSpace, Mesh, NearestFilter, PerspectiveCamera, Points, PointsMaterial, Raycaster, RepeatWrapping, Scene, ShaderMaterial, SphereGeometry, Texture, Vector2, Vector3, WebGLRenderer } from "three";
