/** The airline's fourteen tools. Six change something; the others look up, compute, or hand over to a person. */
import { defineTool, type ToolDefinition } from 'holdpoint/tools';
import { z } from 'zod';
import { recordEffect, recordedResult } from './recorded.ts';

const userId = z.string().regex(/^[a-z]+_[a-z]+_\d{4}$/, 'a user id such as mia_li_3668');
const reservationId = z.string().regex(/^[A-Z0-9]{6}$/, 'a reservation id: six capitals or digits');
const paymentId = z.string().regex(/^(credit_card|gift_card|certificate)_\d+$/, 'a payment id such as credit_card_4421486');
const flightNumber = z.string().regex(/^HAT\d{3}$/, 'a flight number such as HAT136');
const airport = z.string().regex(/^[A-Z]{3}$/, 'an airport code such as JFK');
const cabin = z.enum(['basic_economy', 'economy', 'business']);
const date = z.iso.date();
const bags = z.int().min(0).max(100);
const dollars = z.number().min(0).max(1_000_000);
const prose = z.string().min(1).max(4_000);
const personName = z.string().min(1).max(100);

// An agent once copied the airports out of a search result, and the airline took them.
const flights = z
  .array(z.strictObject({ flight_number: flightNumber, date, origin: airport.optional(), destination: airport.optional() }))
  .min(1)
  .max(20);
const passengers = z
  .array(z.strictObject({ first_name: personName, last_name: personName, dob: date }))
  .min(1)
  .max(20);
const payments = z
  .array(z.strictObject({ payment_id: paymentId, amount: dollars }))
  .min(1)
  .max(20);
const route = z.strictObject({ origin: airport, destination: airport, date });

const flightNames = (list: z.output<typeof flights>): string => list.map((flight) => `${flight.flight_number} on ${flight.date}`).join(', ');
const passengerNames = (list: z.output<typeof passengers>): string => list.map((person) => `${person.first_name} ${person.last_name}`).join(', ');
const total = (list: z.output<typeof payments>): number => list.reduce((sum, payment) => sum + payment.amount, 0);

function read<S extends z.ZodType>(name: string, input: S): ToolDefinition<S> {
  return defineTool({ name, kind: 'read', input, execute: async (args, context) => recordedResult(name, args, context) });
}

/** Idempotent, because its line is written once per key. A booking system that does not take the key is not: then leave `idempotent` out. */
function write<S extends z.ZodType>(name: string, input: S, preview: (args: z.output<S>) => string): ToolDefinition<S> {
  return defineTool({
    name,
    kind: 'write',
    idempotent: true,
    input,
    preview,
    async execute(args, context) {
      const result = recordedResult(name, args, context);
      recordEffect(name, args, context);
      return result;
    },
  });
}

export const getUserDetails = read('get_user_details', z.strictObject({ user_id: userId }));
export const getReservationDetails = read('get_reservation_details', z.strictObject({ reservation_id: reservationId }));
export const listAllAirports = read('list_all_airports', z.strictObject({}));
export const searchDirectFlight = read('search_direct_flight', route);
export const searchOnestopFlight = read('search_onestop_flight', route);
export const calculate = read(
  'calculate',
  z.strictObject({
    expression: z
      .string()
      .min(1)
      .max(1_000)
      .regex(/^[0-9+\-*/(). ]+$/, 'digits and + - * / ( ) .'),
  }),
);
export const think = read('think', z.strictObject({ thought: prose }));
export const transferToHumanAgents = read('transfer_to_human_agents', z.strictObject({ summary: prose }));

export const bookReservation = write(
  'book_reservation',
  z.strictObject({
    user_id: userId,
    origin: airport,
    destination: airport,
    flight_type: z.enum(['one_way', 'round_trip']),
    cabin,
    flights,
    passengers,
    payment_methods: payments,
    total_baggages: bags,
    nonfree_baggages: bags,
    insurance: z.enum(['yes', 'no']),
  }),
  (args) =>
    `Book ${args.origin} to ${args.destination}, ${args.cabin}, for ${passengerNames(args.passengers)}: ${flightNames(args.flights)}; ${total(args.payment_methods)} USD`,
);

export const cancelReservation = write(
  'cancel_reservation',
  z.strictObject({ reservation_id: reservationId }),
  (args) => `Cancel reservation ${args.reservation_id}`,
);

export const updateReservationFlights = write(
  'update_reservation_flights',
  z.strictObject({ reservation_id: reservationId, cabin, flights, payment_id: paymentId }),
  (args) => `Change ${args.reservation_id} to ${args.cabin}: ${flightNames(args.flights)}; difference by ${args.payment_id}`,
);

export const updateReservationBaggages = write(
  'update_reservation_baggages',
  z.strictObject({ reservation_id: reservationId, total_baggages: bags, nonfree_baggages: bags, payment_id: paymentId }),
  (args) => `Change ${args.reservation_id} to ${args.total_baggages} bags, ${args.nonfree_baggages} of them paid by ${args.payment_id}`,
);

export const updateReservationPassengers = write(
  'update_reservation_passengers',
  z.strictObject({ reservation_id: reservationId, passengers }),
  (args) => `Change the passengers of ${args.reservation_id} to ${passengerNames(args.passengers)}`,
);

export const sendCertificate = write(
  'send_certificate',
  z.strictObject({ user_id: userId, amount: dollars }),
  (args) => `Send ${args.user_id} a certificate of ${args.amount} USD`,
);
