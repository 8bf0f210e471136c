// The token of a gateway that was started with --tokens. Kept for this window only, never in the address.
import { signal } from '@preact/signals';

const key = 'postbus-token';

export const token = signal(sessionStorage.getItem(key) ?? '');
/** What to tell the person who has to give one, or null. */
export const tokenWanted = signal<string | null>(null);

export function useToken(value: string): void {
  sessionStorage.setItem(key, value);
  location.reload();
}

export const authorised = (): Record<string, string> => (token.value ? { Authorization: `Bearer ${token.value}` } : {});
