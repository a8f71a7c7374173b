/** The only module that speaks GraphQL: the page's operations, and errors in plain words. */

const ENDPOINT = "/graphql";
const TIMEOUT_MS = 60_000;
const PAGE_FILES = 50;

// Marks GraphQL for editors, and for the test that validates every operation against the schema.
const graphql = String.raw;

const EXPORT = graphql`
  fragment Export on Export {
    id queryId state filesTotal bytesTotal error completedAt archiveUrl manifestUrl
    progress { filesDone bytesDone filesFailed }
  }
`;

const FILES = graphql`
  fragment Files on FileConnection {
    nodes { id storage path facility cluster timeBegin level kind sizeBytes }
    pageInfo { hasNextPage endCursor }
  }
`;

const SEARCH_SUMMARY = graphql`
  query SearchSummary($filter: SearchFilter!, $by: [FacetField!]!) {
    search(filter: $filter, prepare: NEVER) {
      queryId canonical totalBytes
      totalCount { value isEstimate }
      facets(by: $by) { field values { value count } }
      export { ...Export }
    }
  }
  ${EXPORT}
`;

const SEARCH_COUNT = graphql`
  query SearchCount($filter: SearchFilter!) {
    search(filter: $filter, prepare: NEVER) { totalCount { value isEstimate } }
  }
`;

const SEARCH_FILES = graphql`
  query SearchFiles($filter: SearchFilter!, $first: Int!, $after: String, $orderBy: FileOrder) {
    search(filter: $filter, prepare: NEVER) { files(first: $first, after: $after, orderBy: $orderBy) { ...Files } }
  }
  ${FILES}
`;

const QUERY_SUMMARY = graphql`
  query QuerySummary($id: ID!, $asOf: AsOf) {
    query(id: $id, asOf: $asOf) {
      queryId canonical totalBytes revision asOf citeUrl citation
      totalCount { value isEstimate }
      export { ...Export }
    }
  }
  ${EXPORT}
`;

const QUERY_FILES = graphql`
  query QueryFiles($id: ID!, $asOf: AsOf, $first: Int!, $after: String, $orderBy: FileOrder) {
    query(id: $id, asOf: $asOf) { files(first: $first, after: $after, orderBy: $orderBy) { ...Files } }
  }
  ${FILES}
`;

const CHANGES_SINCE = graphql`
  query ChangesSince($queryId: ID!, $from: BigInt!) {
    diff(queryId: $queryId, from: $from) { added { count } removed { count } replaced { count } }
  }
`;

const EXPORT_STATE = graphql`
  query ExportState($id: ID!) {
    export(id: $id) { ...Export }
  }
  ${EXPORT}
`;

const PREPARE = graphql`
  mutation Prepare($queryId: ID!, $asOf: AsOf) {
    prepare(queryId: $queryId, asOf: $asOf) { ...Export }
  }
  ${EXPORT}
`;

const CANCEL = graphql`
  mutation Cancel($exportId: ID!) {
    cancel(exportId: $exportId) { ...Export }
  }
  ${EXPORT}
`;

/** What went wrong, in words for the reader; `field` is the filter to blame, such as "energy.max", or null. */
export class ApiError extends Error {
  constructor(message, { code = "UNREACHABLE", field = null } = {}) {
    super(message);
    this.name = "ApiError";
    this.code = code;
    this.field = field;
  }
}

/** Tell whether an answer is missing only because a newer question took its place. */
export function isSuperseded(error) {
  return error.name === "AbortError";
}

/**
 * The service as the page sees it.
 *
 * Each kind of question has a lane of its own: a newer question aborts the older one of its lane, so that an old
 * answer never overwrites a new one.
 */
export class Api {
  #lanes = new Map();

  /** Return id, canonical form, count, bytes and facets of a search, and its export if it has one. */
  async searchSummary(filter, facetFields) {
    return (await this.#ask("summary", SEARCH_SUMMARY, { filter, by: facetFields })).search;
  }

  /** Return the number of files of each filter. */
  async searchCounts(filters) {
    const answers = filters.map((filter, at) => this.#ask(`count ${at}`, SEARCH_COUNT, { filter }));
    return (await Promise.all(answers)).map((answer) => answer.search.totalCount.value);
  }

  /** Return the page of a search's files that follows the cursor `after`, or the first. */
  async searchFiles(filter, orderBy, after = null) {
    const variables = { filter, first: PAGE_FILES, after, orderBy };
    return (await this.#ask("files", SEARCH_FILES, variables)).search.files;
  }

  /**
   * Return id, canonical form, count, bytes and citation of a known query, and its export; null when no query has this
   * id. `asOf` is `{revision}`, or null for now.
   */
  async querySummary(id, asOf) {
    return (await this.#ask("summary", QUERY_SUMMARY, { id, asOf })).query;
  }

  /** Return a page of a known query's files; null when no query has this id. */
  async queryFiles(id, asOf, orderBy, after = null) {
    const variables = { id, asOf, first: PAGE_FILES, after, orderBy };
    return (await this.#ask("files", QUERY_FILES, variables)).query?.files ?? null;
  }

  /** Return how many files of a query were added, removed or replaced since a revision. */
  async changesSince(queryId, from) {
    const { added, removed, replaced } = (await this.#ask("changes", CHANGES_SINCE, { queryId, from })).diff;
    return added.count + removed.count + replaced.count;
  }

  /** Start the full response of a query, or find the one there is. */
  async prepare(queryId, asOf) {
    return (await this.#ask("export", PREPARE, { queryId, asOf })).prepare;
  }

  /** Stop an export that is not complete. */
  async cancel(exportId) {
    return (await this.#ask("export", CANCEL, { exportId })).cancel;
  }

  /** Return an export as it is now; null when there is none with this id. */
  async export(id) {
    return (await this.#ask("export", EXPORT_STATE, { id })).export;
  }

  /** Drop the question under way in a lane, if there is one. */
  abort(lane) {
    this.#lanes.get(lane)?.abort();
  }

  async #ask(lane, query, variables) {
    this.abort(lane);
    const controller = new AbortController();
    this.#lanes.set(lane, controller);
    const answer = await post({ query, variables }, controller.signal);
    controller.signal.throwIfAborted();
    if (answer.errors?.length) throw toError(answer.errors[0]);
    return answer.data;
  }
}

async function post(body, signal) {
  let response;
  try {
    response = await fetch(ENDPOINT, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
    });
    return await response.json();
  } catch (error) {
    if (isSuperseded(error)) throw error;
    throw new ApiError(explain(error, response));
  }
}

function explain(error, response) {
  if (error.name === "TimeoutError") return `The service did not answer within ${TIMEOUT_MS / 1000} seconds.`;
  if (response === undefined) return "The service cannot be reached.";
  return `The service gave no readable answer (HTTP ${response.status}).`;
}

function toError({ message, extensions = {} }) {
  const field = extensions.field?.replace(/^filter\./, "") ?? null;
  const words = field === null ? message : `${field}: got ${extensions.value}, expected ${extensions.expected}`;
  return new ApiError(`${words.charAt(0).toUpperCase()}${words.slice(1)}.`, { code: extensions.code, field });
}
