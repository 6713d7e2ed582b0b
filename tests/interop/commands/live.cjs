'use strict';
/* Workers for the live tests: they return what a flow's parent read, throw what is no error, or add children. */

module.exports = ({ bull, pause }) => {
  const start = async (at, run, opts = {}) => {
    const worker = at.watch(
      new bull.Worker(
        at.name,
        async (job, token) => {
          at.started.push({ id: job.id, attempt: job.attemptsStarted, at: Date.now() });
          return run(job, token);
        },
        { ...at.options, ...opts },
      ),
    );
    at.workers.push(worker);
    await worker.waitUntilReady();
  };

  async function work(job) {
    const { ms = 0, raise, children, returns } = job.data ?? {};
    await pause(ms);
    if (raise) {
      throw new Error(raise);
    }
    if (children) {
      const failed = job.getIgnoredChildrenFailures ? await job.getIgnoredChildrenFailures() : {};
      return { children: await job.getChildrenValues(), failed };
    }
    return returns === undefined ? job.data : returns;
  }

  return {
    startLive: (at, { opts }) => start(at, work, opts),
    // Throws a text, which is no Error.
    startThrower: (at, { opts }) =>
      start(at, () => {
        throw 'no error, only a text'; // eslint-disable-line no-throw-literal
      }, opts),
    setStreamLimit: async (at, { most }) => {
      const queue = new bull.Queue(at.name, { ...at.options, streams: { events: { maxLen: most } } });
      await queue.waitUntilReady();
      await queue.close();
    },
    // A thousand adds without waiting between them.
    addMany: async (at, { many, data = {}, opts = {} }) => {
      const ids = [];
      for (let begun = 0; begun < many; begun += 100) {
        const batch = Array.from({ length: Math.min(100, many - begun) }, () => at.queue.add('many', data, opts));
        ids.push(...(await Promise.all(batch)).map((job) => job.id));
      }
      return ids;
    },
    completedCounts: (at) => {
      const counts = {};
      for (const [name, fields] of at.seen) {
        if (name === 'completed' || name === 'failed') {
          counts[fields.jobId] = (counts[fields.jobId] ?? 0) + 1;
        }
      }
      return counts;
    },
    eventCounts: (at) => {
      const counts = {};
      for (const [name] of at.seen) {
        counts[name] = (counts[name] ?? 0) + 1;
      }
      return counts;
    },
  };
};
