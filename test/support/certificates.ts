/** A certificate authority of one's own, with a certificate for a server on this machine and one for its clients. */
import { generateKeyPair } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import forge from 'node-forge';

export interface Certificate {
  cert: string;
  key: string;
}

/** Paths of PEM files. */
export interface Certificates {
  ca: string;
  server: Certificate;
  client: Certificate;
}

type Extensions = Parameters<forge.pki.Certificate['setExtensions']>[0];

const LIFE_MS = 2 * 86_400_000;
const AUTHORITY: Extensions = [
  { name: 'basicConstraints', cA: true, critical: true },
  { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
];
/** The server's own services call each other: its certificate is good for both sides. */
const SERVER: Extensions = [
  {
    name: 'subjectAltName',
    altNames: [
      { type: 2, value: 'localhost' },
      { type: 7, ip: '127.0.0.1' },
    ],
  },
  { name: 'extKeyUsage', serverAuth: true, clientAuth: true },
];
const CLIENT: Extensions = [{ name: 'extKeyUsage', clientAuth: true }];

interface Issued {
  certificate: forge.pki.Certificate;
  key: forge.pki.rsa.PrivateKey;
}

/** Node reads certificates but makes none. */
export async function makeCertificates(folder: string): Promise<Certificates> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const authority = await issue('test authority', AUTHORITY);
  const ca = join(folder, 'ca.pem');
  await writeFile(ca, forge.pki.certificateToPem(authority.certificate));
  const keep = async (name: string, extensions: Extensions): Promise<Certificate> => {
    const { certificate, key } = await issue(`test ${name}`, extensions, authority);
    const paths = { cert: join(folder, `${name}.pem`), key: join(folder, `${name}.key`) };
    await writeFile(paths.cert, forge.pki.certificateToPem(certificate));
    await writeFile(paths.key, forge.pki.privateKeyInfoToPem(forge.pki.wrapRsaPrivateKey(forge.pki.privateKeyToAsn1(key))), { mode: 0o600 });
    return paths;
  };
  return { ca, server: await keep('server', SERVER), client: await keep('client', CLIENT) };
}

/** @param issuer absent = signed by itself */
async function issue(name: string, extensions: Extensions, issuer?: Issued): Promise<Issued> {
  const pair = await promisify(generateKeyPair)('rsa', {
    modulusLength: 2048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  });
  const key = forge.pki.privateKeyFromPem(pair.privateKey);
  const certificate = forge.pki.createCertificate();
  certificate.publicKey = forge.pki.publicKeyFromPem(pair.publicKey);
  // Positive in two's complement, and never the same twice.
  certificate.serialNumber = `01${forge.util.bytesToHex(forge.random.getBytesSync(15))}`;
  certificate.validity.notBefore = new Date(Date.now() - 3_600_000);
  certificate.validity.notAfter = new Date(Date.now() + LIFE_MS);
  certificate.setSubject([{ name: 'commonName', value: name }]);
  certificate.setIssuer(issuer?.certificate.subject.attributes ?? certificate.subject.attributes);
  certificate.setExtensions(extensions);
  certificate.sign(issuer?.key ?? key, forge.md.sha256.create());
  return { certificate, key };
}
