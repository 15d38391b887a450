// Moves this process's clock: HOLDPOINT_TEST_SKEW_MS, loaded by --import.
const skew = Number(process.env.HOLDPOINT_TEST_SKEW_MS);
const RealDate = Date;
globalThis.Date = class extends RealDate {
  constructor(...args) {
    super(...(args.length === 0 ? [RealDate.now() + skew] : args));
  }
  static now() {
    return RealDate.now() + skew;
  }
};
