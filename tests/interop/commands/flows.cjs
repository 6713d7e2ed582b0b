'use strict';
/* Workers that run flows: a parent's result is what it read of its children. */

module.exports = ({ bull }) => ({
  startFlowWorker: async (at) => {
    const run = async (job) => {
      const values = await job.getChildrenValues();
      return Object.keys(values).length ? values : job.data;
    };
    const worker = at.watch(new bull.Worker(at.name, run, at.options));
    at.workers.push(worker);
    await worker.waitUntilReady();
  },
});
