/** docker-compose.yml as data, and what its containers see. */
import { readFileSync } from 'node:fs';
import { join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));

export interface Service {
  image: string;
  user?: string;
  restart?: string;
  init?: boolean;
  read_only?: boolean;
  cap_drop?: string[];
  security_opt?: string[];
  command?: string[];
  entrypoint?: string[];
  environment?: Record<string, string>;
  secrets?: string[];
  volumes?: string[];
  ports?: string[];
  networks?: string[];
  stop_grace_period?: string;
  depends_on?: Record<string, { condition: string }>;
  healthcheck?: { test: string[] };
}

export interface Compose {
  services: Record<string, Service>;
  networks: Record<string, unknown>;
  volumes: Record<string, unknown>;
  secrets: Record<string, { file: string }>;
}

export const composeText = readFileSync(join(ROOT, 'docker-compose.yml'), 'utf8');
/** With the defaults that it gives itself: `${NAME:-value}`. */
export const compose = parse(composeText.replace(/\$\{\w+:-(\w*)\}/g, '"$1"'), { merge: true }) as Compose;

export function serviceOf(name: string): Service {
  const service = compose.services[name];
  if (!service) throw new Error(`docker-compose.yml has no service ${name}`);
  return service;
}

export interface Mount {
  source: string;
  target: string;
  readOnly: boolean;
}

export function mountsOf(service: Service): Mount[] {
  return (service.volumes ?? []).map((text) => {
    const [source = '', target = '', mode] = text.split(':');
    return { source, target, readOnly: mode === 'ro' };
  });
}

export const isNamedVolume = ({ source }: Mount): boolean => !source.startsWith('.') && !source.startsWith('/');

/** Name of a secret's file in the folder that make-secrets makes. */
export const secretFile = (name: string): string => posix.basename(compose.secrets[name]?.file ?? '');
