'use strict';
/* What an operator does to a queue and its jobs, and what dashboards ask. */

module.exports = ({ bull }) => ({
  reprocess: async (at, { id, state, opts }) => {
    await (await at.job(id)).retry(state, opts);
  },
  changeDelay: async (at, { id, ms }) => (await at.job(id)).changeDelay(ms),
  changePriority: async (at, { id, opts }) => (await at.job(id)).changePriority(opts),
  updateData: async (at, { id, data }) => (await at.job(id)).updateData(data),
  addLog: (at, { id, row, keep }) => at.queue.addJobLog(id, row, keep),
  clearLogs: async (at, { id, keep }) => (await at.job(id)).clearLogs(keep),
  removeJob: (at, { id, children = true }) => at.queue.remove(id, { removeChildren: children }),
  removePending: async (at, { id }) => (await at.job(id)).removeUnprocessedChildren(),

  drain: (at, { delayed = false }) => at.queue.drain(delayed),
  clean: (at, { grace, limit, state }) => at.queue.clean(grace, limit, state),
  obliterateQueue: (at, { force = false }) => at.queue.obliterate({ force }),
  retryJobs: (at, { opts }) => at.queue.retryJobs(opts),
  promoteJobs: (at, { opts }) => at.queue.promoteJobs(opts),

  removeConcurrency: (at) => at.queue.removeGlobalConcurrency(),
  removeRateLimit: (at) => at.queue.removeGlobalRateLimit(),
  rateLimit: (at, { ms }) => at.queue.rateLimit(ms),
  endRateLimit: (at) => at.queue.removeRateLimitKey(),
  rateLimitTtl: (at, { max }) => at.queue.getRateLimitTtl(max),
  concurrency: (at) => at.queue.getGlobalConcurrency(),
  rate: (at) => at.queue.getGlobalRateLimit(),
  meta: (at) => at.queue.getMeta(),
  metrics: (at, { which, start, end }) => at.queue.getMetrics(which, start, end),
  priorityCounts: (at, { priorities }) => at.queue.getCountsPerPriority(priorities),
  workersCount: (at) => at.queue.getWorkersCount(),
  workerList: (at) => at.queue.getWorkers(),
  schedulerIds: async (at) => (await at.queue.getJobSchedulers()).map((each) => each.key),

  listen: (at, { event }) => {
    at.events.on(event, (fields) => at.seen.push([event, fields]));
    return at.events.waitUntilReady().then(() => null);
  },
  publish: async (at, { event, fields }) => {
    const producer = new bull.QueueEventsProducer(at.name, at.options);
    await producer.publishEvent({ eventName: event, ...fields });
    await producer.close();
  },
});
