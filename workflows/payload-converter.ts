/**
 * The payload converter of workers and of the workflow bundle. Reading never throws: the SDK decodes a signal before
 * any code of ours runs, so one payload that cannot be read would otherwise fail the workflow task for ever.
 */
import { DefaultPayloadConverter, type Payload, type PayloadConverter } from '@temporalio/common';

/** What stands in for a payload that cannot be read. */
export const UNREADABLE = 'holdpoint_unreadable';

const standard = new DefaultPayloadConverter();

class TotalPayloadConverter implements PayloadConverter {
  toPayload<T>(value: T): Payload {
    return standard.toPayload(value);
  }

  fromPayload<T>(payload: Payload): T {
    try {
      return standard.fromPayload<T>(payload);
    } catch {
      return { [UNREADABLE]: true } as T;
    }
  }
}

export const payloadConverter: PayloadConverter = new TotalPayloadConverter();
