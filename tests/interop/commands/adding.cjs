'use strict';
/* Producers: flows as Node reads them back, and who holds a deduplication id. */

module.exports = ({ shown }) => {
  /** A tree as getFlow gives it: each job with its state, children by their id. */
  async function branch({ job, children = [] }) {
    const below = await Promise.all(children.map(branch));
    below.sort((one, other) => (one.id < other.id ? -1 : 1));
    return { id: job.id, queue: job.queueName, name: job.name, state: await job.getState(), children: below };
  }

  return {
    addTrees: async (at, { flows }) => (await at.flows.addBulk(flows)).map(({ job }) => job.id),
    tree: async (at, { id }) => branch(await at.flows.getFlow({ queueName: at.name, id, prefix: at.options.prefix })),
    dependencies: async (at, { id }) => (await at.job(id)).getDependencies(),
    holder: (at, { id }) => at.queue.getDeduplicationJobId(id),
    whole: async (at, { id }) => {
      const job = await at.job(id);
      return { ...shown(job), parent: job.parent };
    },
  };
};
