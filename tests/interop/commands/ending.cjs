'use strict';
/* How jobs end: parents and children, limits and metrics of the worker whose loop is off. */

module.exports = () => ({
  waitChildren: (at, { id, token }) => at.fetched.get(id).moveToWaitingChildren(token),
  // As a worker does whose processor threw what is no error.
  failWith: (at, { id, token, thrown }) => at.fetched.get(id).moveToFailed(thrown, token, false),
  retryFrom: async (at, { id, state }) => (await at.job(id)).retry(state),
  detach: async (at, { id }) => (await at.job(id)).removeChildDependency(),
  children: async (at, { id }) => {
    const job = await at.job(id);
    return { ...(await job.getDependencies()), reasons: await job.getIgnoredChildrenFailures() };
  },

  // Settings of the worker whose loop is off.
  limitWorker: (at, { max, ms }) => {
    at.hand().opts.limiter = { max, duration: ms };
  },
  countMinutes: (at, { points }) => {
    at.hand().opts.metrics = { maxDataPoints: points };
  },

  rateLimit: (at, { ms }) => at.queue.rateLimit(ms),
  metricsOf: (at, { which }) => at.queue.getMetrics(which),
});
