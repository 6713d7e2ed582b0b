'use strict';
/* Job schedulers, and the cron library that this generation of BullMQ carries, asked as it is. */

const path = require('node:path');

module.exports = ({ generation }) => {
  const cronParser = () => {
    const found = require.resolve('cron-parser', { paths: [path.dirname(require.resolve(`bullmq${generation}`))] });
    const library = require(found);
    return library.parseExpression ?? ((pattern, options) => library.CronExpressionParser.parse(pattern, options));
  };

  return {
    // null: it made no job (a limit or an end is reached)
    upsertScheduler: async (at, { id, repeat, template }) => {
      const job = await at.queue.upsertJobScheduler(id, repeat, template);
      return job ? job.id : null;
    },
    removeScheduler: (at, { id }) => at.queue.removeJobScheduler(id),
    scheduler: async (at, { id }) => (await at.queue.getJobScheduler(id)) ?? null,
    schedulers: (at, { start = 0, end = -1, asc = false }) => at.queue.getJobSchedulers(start, end, asc),
    countSchedulers: (at) => at.queue.getJobSchedulersCount(),
    addRepeatable: async (at, { name, data, repeat, opts = {} }) =>
      (await at.queue.add(name, data, { ...opts, repeat })).id, // generation 5 alone

    // [pattern, tz or null, after (ms)] -> the next moment (ms), or the error's text
    nextCrons: (_, { cases }) => {
      const parse = cronParser();
      return cases.map(([pattern, tz, after]) => {
        try {
          return parse(pattern, { currentDate: new Date(after), ...(tz && { tz }) }).next().getTime();
        } catch (error) {
          return String(error.message);
        }
      });
    },
  };
};
