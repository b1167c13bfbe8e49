// Builds the package twice: ECMAScript modules in dist/esm, CommonJS in dist/cjs.
// TypeScript takes the kind of module from the nearest package.json, so CommonJS is built from a
// copy of the sources that stands beside one.
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(fileURLToPath(import.meta.url));
const dist = join(root, 'dist');
const copy = join(dist, 'cjs-src');
const compiler = join(root, 'node_modules/typescript/bin/tsc');
const compile = (...args) => execFileSync(process.execPath, [compiler, ...args], { cwd: root, stdio: 'inherit' });

rmSync(dist, { recursive: true, force: true });
compile('-p', 'tsconfig.json');

mkdirSync(copy, { recursive: true });
cpSync(join(root, 'src'), copy, { recursive: true });
for (const folder of [copy, join(dist, 'cjs')]) {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'package.json'), '{ "type": "commonjs" }\n');
}
writeFileSync(
  join(copy, 'tsconfig.json'),
  JSON.stringify({
    extends: '../../tsconfig.json',
    compilerOptions: { rootDir: '.', outDir: '../cjs', typeRoots: ['../../node_modules/@types'] },
    include: ['.'],
  }),
);
compile('-p', join(copy, 'tsconfig.json'));
rmSync(copy, { recursive: true, force: true });
