'use strict';
/* What a parent knows of its children. */

module.exports = () => ({
  childrenValues: async (at, { id }) => (await at.job(id)).getChildrenValues(),
});
