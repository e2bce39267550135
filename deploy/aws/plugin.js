'use strict';

// A part of `serverless`: builds the zip before it packages, and runs functions here as they run on a laptop.

const { spawnSync } = require('child_process');
const fs = require('fs');
const path = require('path');

class Sampan {
  constructor(serverless, options, { log } = {}) {
    this.serverless = serverless;
    this.options = options;
    this.log = log || { warning: (words) => serverless.cli.log(words) };
    this.hooks = {
      'before:package:createDeploymentArtifacts': () => this.build(),
      'before:package:function:package': () => this.build(),
      // Before the command looks up in the account what the functions' variables refer to.
      initialize: () => this.serverless.processedInput.commands.join(' ') === 'invoke local' && this.becomeLocal(),
    };
  }

  get stage() {
    return this.serverless.service.provider.stage;
  }

  // An interpreter that has Sampan: the one named, the active or the project's own environment's, the machine's.
  get python() {
    const folders = [process.env.VIRTUAL_ENV, path.join(this.serverless.serviceDir, '.venv')];
    const found = folders.filter(Boolean).map((folder) => path.join(folder, 'bin', 'python'));
    return process.env.PYTHON || found.find((name) => fs.existsSync(name)) || 'python3';
  }

  run(args, options) {
    const done = spawnSync(this.python, args, { cwd: this.serverless.serviceDir, ...options });
    if (done.error) throw new this.serverless.classes.Error(`${this.python}: ${done.error.message}`);
    if (done.status !== 0) throw new this.serverless.classes.Error(`${this.python} ${args[0]} failed (see above)`);
    return done.stdout;
  }

  build() {
    const { provider, service } = this.serverless.service;
    const { MODEL_ENDPOINT, MODEL_NAME } = provider.environment || {};
    if (!MODEL_ENDPOINT && !MODEL_NAME) {
      this.log.warning(
        `${service}: neither MODEL_NAME nor MODEL_ENDPOINT is set, so each agent asks the model that its code names; ` +
          'the small local model of the laptop is not in the package'
      );
    }
    const artifact = path.join('build', `lambda-${this.stage}.zip`);
    const kind =
      this.stage === 'local'
        ? ['--here']
        : ['--arch', provider.architecture, '--python', provider.runtime.replace('python', '')];
    this.run([path.join('deploy', 'aws', 'package.py'), ...kind, '--output', artifact], { stdio: ['ignore', 2, 2] });
    this.serverless.service.package.artifact = artifact;
  }

  // `serverless invoke local` needs no account: the store, the queue and the model are those of the laptop, unless the
  // shell or `--env` says otherwise.
  becomeLocal() {
    const { functions, provider } = this.serverless.service;
    const target = (functions || {})[this.options.function];
    if (!target) return;
    const asked = [].concat(this.options.env || []).map((pair) => pair.split('=')[0]);
    const own = ['STORE', 'TABLE', 'BUCKET', 'QUEUE', 'QUEUE_URL', 'DEAD_QUEUE_URL', 'WEBSOCKET_URL'].map((name) => `SAMPAN_${name}`);
    for (const environment of [provider.environment, target.environment]) {
      for (const name of Object.keys(environment || {})) {
        if (!asked.includes(name) && (own.includes(name) || environment[name] === '')) delete environment[name];
      }
    }
    const version = this.run(['-c', 'import sys; print("%d.%d" % sys.version_info[:2])'], { encoding: 'utf8' }).trim();
    target.runtime = `python${version}`;
    const folder = path.dirname(this.python);
    if (folder !== '.') process.env.PATH = folder + path.delimiter + process.env.PATH;
  }
}

module.exports = Sampan;
