#!/usr/bin/env node
// Starts the binary that npm installed for this platform, and passes signals and exit code on.
'use strict';

const { spawn } = require('node:child_process');
const { constants } = require('node:os');

const platform = `outboxd-${process.platform}-${process.arch}`;
let binary;
try {
  binary = require.resolve(`${platform}/bin/outboxd`);
} catch {
  console.error(
    `outboxd: the package ${platform} is not installed. npm leaves it out with --omit=optional, and on a platform ` +
      'without a build. Install it, or build outboxd with `cargo install outboxd`.',
  );
  process.exit(1);
}

const child = spawn(binary, process.argv.slice(2), { stdio: 'inherit' });
for (const signal of ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2']) process.on(signal, () => child.kill(signal));
// A terminal sends these to the binary, too.
for (const signal of ['SIGINT', 'SIGQUIT']) process.on(signal, () => process.stdin.isTTY || child.kill(signal));

child.on('error', (error) => {
  console.error(`outboxd: cannot start ${binary}: ${error.message}`);
  process.exit(1);
});
child.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));
