'use strict';
/*
 * Bull Board over queues of this process, and a headless Chromium that a test drives step by step.
 *
 * Owns the web server and the browser until `boardClose` and `browserClose`. Asserts nothing: `see` gives what stands
 * on the page.
 */

const Module = require('node:module');

// No call home, no sandbox (CI runs as root), nothing shared with another browser.
const CHROMIUM_ARGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];

/** Load Bull Board with the generation under test as its `bullmq`. Late: it is not small, and most tests need none. */
function load(generation) {
  const resolve = Module._resolveFilename;
  Module._resolveFilename = (name, ...rest) => resolve(name === 'bullmq' ? `bullmq${generation}` : name, ...rest);
  try {
    return {
      ...require('@bull-board/api'),
      ...require('@bull-board/api/bullMQAdapter'),
      ...require('@bull-board/express'),
      express: require('express'),
    };
  } finally {
    Module._resolveFilename = resolve;
  }
}

const TIP = '[data-base-ui-portal] [role=presentation]';

let server = null;
let browser = null;
let page = null;

module.exports = ({ generation, place, pause }) => ({
  /** Start the board over these queues ([prefix, name] each); the reply is its address. */
  board: async (_, { queues }) => {
    const { createBullBoard, BullMQAdapter, ExpressAdapter, express } = load(generation);
    const serverAdapter = new ExpressAdapter();
    serverAdapter.setBasePath('/board');
    createBullBoard({
      queues: queues.map(([prefix, name]) => new BullMQAdapter(place(prefix, name).queue)),
      serverAdapter,
      options: { uiConfig: { pollingInterval: { forceInterval: 1 } } },
    });
    const app = express();
    app.use('/board', serverAdapter.getRouter());
    server = await new Promise((done) => {
      const listening = app.listen(0, '127.0.0.1', () => done(listening));
    });
    return `http://127.0.0.1:${server.address().port}/board`;
  },
  boardClose: async () => {
    server?.closeAllConnections();
    await new Promise((done) => (server ? server.close(done) : done()));
    server = null;
  },

  browser: async (_, { executable }) => {
    const { chromium } = require('playwright-core');
    browser = await chromium.launch({ executablePath: executable, headless: true, args: CHROMIUM_ARGS });
    page = await browser.newPage({ viewport: { width: 1280, height: 860 } });
    page.setDefaultTimeout(15000);
    page.browserErrors = [];
    page.on('pageerror', (error) => page.browserErrors.push(String(error)));
  },
  browserClose: async () => {
    const errors = page?.browserErrors ?? [];
    await browser?.close();
    browser = page = null;
    return errors;
  },

  visit: async (_, { url }) => {
    await page.goto(url);
  },
  /** Click what has this name: a button unless `role` says otherwise. */
  press: async (_, { name, role = 'button', within = 'body' }) => {
    await page.locator(within).first().getByRole(role, { name, exact: true }).first().click();
  },
  /** Click the button whose name shows only while the mouse is over it. */
  pressIcon: async (_, { tip }) => {
    const icons = page.locator('main [data-base-ui-tooltip-trigger] button');
    await icons.first().waitFor();
    const seen = [];
    for (const icon of await icons.all()) {
      await page.mouse.move(0, 0);
      await page.locator(TIP).waitFor({ state: 'detached' });
      await icon.hover();
      await page.locator(TIP).first().waitFor();
      seen.push(await page.locator(TIP).first().innerText());
      if (seen.at(-1) === tip) {
        await icon.click();
        return;
      }
    }
    throw new Error(`no icon "${tip}", only ${seen.join(', ')}`);
  },
  pressMenu: async (_, { name }) => {
    await page.locator('main button[aria-haspopup=menu]').click();
    await page.getByRole('menuitem', { name, exact: true }).click();
  },
  /** What the page says, to eyes and to screen readers, once all of `texts` stand in it. */
  see: async (_, { texts = [] }) => {
    for (const until = Date.now() + 10000; ; await pause(50)) {
      const shown = await page.locator('body').ariaSnapshot();
      const missing = texts.filter((text) => !shown.includes(text));
      if (!missing.length) {
        return shown;
      }
      if (Date.now() > until) {
        throw new Error(`the page lacks ${JSON.stringify(missing)}:\n${shown}`);
      }
    }
  },
  screenshot: async (_, { path, height }) => {
    await page.setViewportSize({ width: 1280, height });
    await page.screenshot({ path });
  },
});
