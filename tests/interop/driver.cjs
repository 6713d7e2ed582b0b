'use strict';
/*
 * Real BullMQ behind a pipe: one JSON command a line on stdin, one JSON reply a line on stdout.
 *
 *   node driver.cjs <5|6> <redis url>
 *   {"n": 1, "do": "add", "prefix": "bull", "queue": "q", ...}  ->  {"n": 1, "ok": ...} or {"n": 1, "error": ...}
 *
 * Commands run side by side: a reply may overtake another (`n` tells them apart). Owns the BullMQ objects of each
 * queue until `close`. Never touches Redis but through BullMQ's public API. Ends when stdin does.
 */

const fs = require('node:fs');
const path = require('node:path');
const readline = require('node:readline');

const [generation, url] = process.argv.slice(2);
const bull = require(`bullmq${generation}`);

const connection = (() => {
  const at = new URL(url);
  return { host: at.hostname, port: Number(at.port), maxRetriesPerRequest: null };
})();

// A clock that tests can stop: BullMQ takes every moment it stores from Date.now.
const realNow = Date.now;
let stoppedAt = null;
Date.now = () => (stoppedAt === null ? realNow() : stoppedAt);

const EVENTS = [
  'active', 'added', 'cleaned', 'completed', 'deduplicated', 'delayed', 'drained', 'duplicated', 'failed',
  'paused', 'progress', 'removed', 'resumed', 'retries-exhausted', 'stalled', 'waiting', 'waiting-children',
];

/** What this process has open on one queue. */
class Place {
  constructor(prefix, name) {
    this.options = { connection, prefix };
    this.name = name;
    this.fetched = new Map(); // id -> Job
    this.workers = [];
    this.started = []; // {id, attempt} in order, by the workers here
    this.seen = []; // [event, fields] in order, by the QueueEvents here
    this.errors = [];
  }

  get queue() {
    // No writes at start, so that a queue holds only what the steps of a test put there.
    this._queue ??= this.watch(new bull.Queue(this.name, { ...this.options, skipMetasUpdate: true }));
    return this._queue;
  }

  /** A worker whose loop is off: each transition is one call. */
  hand(maxStalledCount = 1) {
    this._hand ??= this.watch(
      new bull.Worker(this.name, null, { ...this.options, autorun: false, name: 'wk', lockDuration: 30000 }),
    );
    this._hand.opts.maxStalledCount = maxStalledCount;
    return this._hand;
  }

  get flows() {
    this._flows ??= this.watch(new bull.FlowProducer(this.options));
    return this._flows;
  }

  get events() {
    if (!this._events) {
      // From the start of the stream: nothing is missed, whenever the reader is ready.
      this._events = this.watch(new bull.QueueEvents(this.name, { ...this.options, lastEventId: '0-0' }));
      for (const name of EVENTS) {
        // `drained` has no fields: its only argument is the event's id.
        this._events.on(name, (fields) => this.seen.push([name, typeof fields === 'string' ? {} : fields]));
      }
    }
    return this._events;
  }

  watch(object) {
    object.on('error', (error) => this.errors.push(`${object.constructor.name}: ${error.stack}`));
    return object;
  }

  async job(id) {
    const job = await bull.Job.fromId(this.queue, id);
    if (!job) {
      throw new Error(`no job ${id}`);
    }
    return job;
  }

  async close() {
    for (const worker of this.workers) {
      await worker.close(true);
    }
    for (const each of [this._hand, this._events, this._flows, this._queue]) {
      await each?.close();
    }
  }
}

const places = new Map();

function place(prefix, name) {
  const key = JSON.stringify([prefix, name]);
  if (!places.has(key)) {
    places.set(key, new Place(prefix, name));
  }
  return places.get(key);
}

function shown(job) {
  const {
    id, name, data, opts, progress, returnvalue, failedReason, stacktrace, attemptsMade, attemptsStarted,
    stalledCounter, delay, priority, timestamp, processedOn, processedBy, finishedOn, deferredFailure,
    parentKey, deduplicationId, repeatJobKey,
  } = job;
  return {
    id, name, data, opts, progress, returnvalue, failedReason, stacktrace, attemptsMade, attemptsStarted,
    stalledCounter, delay, priority, timestamp, processedOn, processedBy, finishedOn, deferredFailure,
    parentKey, deduplicationId, repeatJobKey,
  };
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** What a live worker does with a job: its data says. */
async function work(job) {
  const { raise, unrecoverable, ms = 0, progress, rows = [] } = job.data ?? {};
  if (progress !== undefined) {
    await job.updateProgress(progress);
  }
  for (const row of rows) {
    await job.log(row);
  }
  await pause(ms);
  if (unrecoverable) {
    throw new bull.UnrecoverableError(unrecoverable);
  }
  if (raise) {
    throw new Error(raise);
  }
  return job.data;
}

const commands = {
  version: () => require(`bullmq${generation}/package.json`).version,
  clock: (_, { now }) => {
    stoppedAt = now;
  },

  // Producers
  add: async (at, { name, data, opts }) => (await at.queue.add(name, data, opts)).id,
  addBulk: async (at, { jobs }) => (await at.queue.addBulk(jobs)).map((job) => job.id),
  addFlow: async (at, { flow }) => {
    const tree = await at.flows.add(flow);
    return { id: tree.job.id, children: (tree.children ?? []).map(({ job }) => job.id) };
  },
  schedule: async (at, { id, repeat, template }) => (await at.queue.upsertJobScheduler(id, repeat, template)).id,
  pause: (at) => at.queue.pause(),
  resume: (at) => at.queue.resume(),
  setConcurrency: (at, { limit }) => at.queue.setGlobalConcurrency(limit),
  setRateLimit: (at, { max, ms }) => at.queue.setGlobalRateLimit(max, ms),
  obliterate: (at) => at.queue.obliterate({ force: true }),
  removeOrphans: (at) => at.queue.removeOrphanedJobs(),
  retry: async (at, { id }) => (await at.job(id)).retry(),
  promote: async (at, { id }) => (await at.job(id)).promote(),
  remove: (at, { id }) => at.queue.remove(id),

  // One transition of a worker each
  fetch: async (at, { token }) => {
    for (;;) {
      at.hand().limitUntil = 0; // ask Redis each time, and not what an earlier answer said of a rate limit
      const job = await at.hand().getNextJob(token, { block: false });
      if (!job) {
        return null;
      }
      if (!job.deferredFailure) {
        at.fetched.set(job.id, job);
        return shown(job);
      }
      // As a worker's loop does (BullMQ 5 does it inside getNextJob).
      await job.moveToFailed(new bull.UnrecoverableError(job.deferredFailure), token, false);
    }
  },
  complete: async (at, { id, token, value }) => {
    await at.fetched.get(id).moveToCompleted(value, token, false);
  },
  fail: async (at, { id, token, message, unrecoverable }) => {
    const error = unrecoverable ? new bull.UnrecoverableError(message) : new Error(message);
    await at.fetched.get(id).moveToFailed(error, token, false);
  },
  delay: (at, { id, token, until }) => at.fetched.get(id).moveToDelayed(until, token),
  handBack: async (at, { id, token }) => {
    await at.fetched.get(id).moveToWait(token);
  },
  progress: (at, { id, value }) => at.fetched.get(id).updateProgress(value),
  log: async (at, { id, row }) => {
    await at.fetched.get(id).log(row);
  },
  extend: (at, { id, token, ms }) => at.fetched.get(id).extendLock(token, ms),
  checkStalled: (at, { maxStalledCount }) => at.hand(maxStalledCount).moveStalledJobsToWait(),

  // A worker that runs by itself
  startWorker: async (at, { opts = {} }) => {
    const run = async (job) => {
      at.started.push({ id: job.id, attempt: job.attemptsStarted });
      return work(job);
    };
    const worker = at.watch(new bull.Worker(at.name, run, { ...at.options, ...opts }));
    at.workers.push(worker);
    await worker.waitUntilReady();
  },
  stopWorkers: async (at) => {
    await Promise.all(at.workers.splice(0).map((worker) => worker.close()));
  },
  started: (at) => at.started,

  // Readers
  // As a worker whose loop is off but whose stall checks run: takes nothing, only looks.
  startStallChecks: (at, { ms, maxStalledCount = 1 }) => {
    const hand = at.hand(maxStalledCount);
    hand.opts.stalledInterval = ms;
    return hand.startStalledCheckTimer();
  },

  startEvents: (at) => at.events.waitUntilReady().then(() => null),
  events: (at) => at.seen,
  errors: (at) => at.errors,
  result: async (at, { id, ms }) => (await at.job(id)).waitUntilFinished(at.events, ms),
  find: async (at, { id }) => {
    const job = await bull.Job.fromId(at.queue, id);
    return job ? { ...shown(job), state: await job.getState() } : null;
  },
  ids: async (at, { state, start = 0, end = -1, asc }) =>
    (await at.queue.getJobs([state], start, end, asc)).map((job) => job.id),
  counts: (at) => at.queue.getJobCounts(),
  logs: (at, { id }) => at.queue.getJobLogs(id),
  workers: async (at) => (await at.queue.getWorkers()).map((each) => each.rawname),
  isPaused: (at) => at.queue.isPaused(),

  close: async (at, { prefix, queue }) => {
    places.delete(JSON.stringify([prefix, queue]));
    await at.close();
  },
};

// Further commands stand in files of their own: each exports (tools) => ({ name: (at, arguments) => ... }).
for (const file of fs.readdirSync(path.join(__dirname, 'commands')).sort()) {
  Object.assign(commands, require(path.join(__dirname, 'commands', file))({ bull, generation, place, shown, pause }));
}

function say(reply) {
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}

async function answer(line) {
  const command = JSON.parse(line);
  try {
    const ok = await commands[command.do](place(command.prefix, command.queue), command);
    say({ n: command.n, ok: ok === undefined ? null : ok });
  } catch (error) {
    say({ n: command.n, error: String(error?.stack ?? error) });
  }
}

readline.createInterface({ input: process.stdin }).on('line', answer).on('close', () => process.exit(0));
